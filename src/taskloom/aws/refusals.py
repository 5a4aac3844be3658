"""Which refusal of a service lies behind an error of `Clients`, for the adapters that know what it means."""

from botocore.exceptions import ClientError

from taskloom.aws.failures import code_of


def refusal(error: BaseException) -> str:
    """AWS's error code behind *error*; empty when it was no refusal of a service."""
    cause = error.__cause__
    return code_of(cause) if isinstance(cause, ClientError) else ""
