"""What the adapters of the table load beside the package itself."""

import sys

from tests.test_imports import loaded_by

BOTO3 = {"boto3", "botocore", "certifi", "dateutil", "jmespath", "s3transfer", "six", "urllib3"}


def test_the_store_needs_boto3_and_nothing_else() -> None:
    """An allow-list: whatever comes on top is paid for by every cold start."""
    loaded = loaded_by("import taskloom.aws.store, taskloom.aws.admin, taskloom.aws.task_logs")
    own = {name for name in loaded if not name.startswith("_")} - sys.stdlib_module_names
    assert own - BOTO3 == {"taskloom"}


def test_the_table_is_data() -> None:
    """The stack reads it without a driver."""
    assert loaded_by("import taskloom.aws.table") - sys.stdlib_module_names == {"taskloom"}
