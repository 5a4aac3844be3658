"""Deploying on AWS: the construct `Taskloom`, a plain template, and the package of the functions.

`from taskloom.deploy import Taskloom` needs the extra `cdk`.
"""

from typing import TYPE_CHECKING, Any

from taskloom.errors import MissingExtra

if TYPE_CHECKING:
    from taskloom.deploy.construct import Taskloom

__all__ = ["Taskloom"]


def __getattr__(name: str) -> Any:
    if name != "Taskloom":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import aws_cdk  # noqa: F401
    except ImportError as error:
        raise MissingExtra("taskloom.deploy.Taskloom", "cdk") from error
    from taskloom.deploy.construct import Taskloom

    return Taskloom
