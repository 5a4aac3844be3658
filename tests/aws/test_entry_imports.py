"""What a function loads: a queue handler must not pay for a web server."""

import os
import subprocess
import sys

import pytest

from tests.test_imports import loaded_by

BOTO3 = {"boto3", "botocore", "certifi", "dateutil", "jmespath", "s3transfer", "six", "urllib3"}
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""
SETTINGS = (
    "settings=Settings(backend='aws', table_name='t', task_queue_url='u', payload_bucket='b', "
    "state_machine_arn='arn:aws:states:r:1:stateMachine:m')"
)


def test_the_entry_needs_boto3_and_nothing_else() -> None:
    """An allow-list: whatever comes on top is paid for by every cold start."""
    loaded = loaded_by("import taskloom.aws.entry, taskloom.aws.backend")
    own = {name for name in loaded if not name.startswith("_")} - sys.stdlib_module_names
    assert own - BOTO3 == {"taskloom"}


def test_a_module_on_aws_loads_no_other_backend() -> None:
    loaded = loaded_by(f"from taskloom import Settings, TaskModule\nTaskModule.register({SETTINGS})")
    own = {name for name in loaded if not name.startswith("_")} - sys.stdlib_module_names
    assert own - BOTO3 == {"taskloom"}
    assert "sqlite3" not in loaded


@pytest.mark.parametrize("missing", ["boto3", "botocore"])
def test_a_missing_extra_says_how_to_get_it(missing: str) -> None:
    code = BLOCKED.format(names={missing}) + (
        "from taskloom import Settings, TaskModule, TaskloomError\n"
        f"try:\n    TaskModule.register({SETTINGS})\n"
        "except ImportError as error:\n    assert isinstance(error, TaskloomError)\n    print(error)"
    )
    assert "pip install 'taskloom[aws]'" in _output(code)


def test_powertools_make_metrics_and_lines_of_json_on_lambda() -> None:
    """Where they are installed."""
    code = (
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "from taskloom.aws.telemetry import Telemetry\n"
        "telemetry = Telemetry()\n"
        "telemetry.count('AttemptsEnded', type='cat', status='COMPLETED')\n"
        "with telemetry.span('x'):\n    logging.warning('a line')\n"
    )
    lines = _output(code, AWS_LAMBDA_FUNCTION_NAME="f", POWERTOOLS_DEV="false").splitlines()
    metric, line = lines
    assert '"Namespace":"Taskloom"' in metric.replace(" ", "")
    assert '"AttemptsEnded"' in metric
    assert '"message":"a line"' in line.replace('": "', '":"')


def test_without_powertools_lines_are_plain() -> None:
    code = BLOCKED.format(names={"aws_lambda_powertools"}) + (
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "from taskloom.aws.telemetry import Telemetry\n"
        "telemetry = Telemetry()\n"
        "telemetry.count('AttemptsEnded', type='cat')\n"
        "with telemetry.span('x'):\n    logging.warning('a line')\n"
    )
    assert _output(code, AWS_LAMBDA_FUNCTION_NAME="f").splitlines() == ["WARNING:root:a line"]


def _output(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
