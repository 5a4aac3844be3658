"""One object that configures a module."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

from taskloom.errors import InvalidInput, InvalidType
from taskloom.policy import MAX_SECONDS, Retry, number, retention, whole_number
from taskloom.webhooks import check_secret

PREFIX: Final = "TASKLOOM_"

BackendName = Literal["embedded", "aws"]
Synchronous = Literal["FULL", "NORMAL"]
AuthName = Literal["none", "jwt", "gateway"]
MIN_SECRET: Final = 16
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _environment(name: str, default: Any, parse: Callable[[str], Any] = str) -> Callable[[], Any]:
    """Reads the environment variable `TASKLOOM_<NAME>`, whenever a `Settings` is made without the field."""

    def read() -> Any:
        variable = PREFIX + name.upper()
        text = os.environ.get(variable)
        if text is None:
            return default
        try:
            return parse(text)
        except (ValueError, TypeError) as error:
            raise InvalidInput(variable, f"{text!r} cannot be read: {error}", "correct or unset it") from error

    return read


def _retry(text: str) -> Retry:
    options = json.loads(text)
    if isinstance(options, int):
        options = {"max_attempts": options}
    if not isinstance(options, dict):
        raise ValueError('give a number of attempts, or an object as {"max_attempts": 5, "initial": 2}')
    return Retry(**options)


def _flag(text: str) -> bool:
    flags = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in flags:
        raise ValueError("give true or false")
    return flags[text.lower()]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a module works. Each field also comes from `TASKLOOM_<FIELD>`; explicit values win.

    Raises: InvalidInput or InvalidType naming the field or the variable.
    """

    backend: BackendName = field(default_factory=_environment("backend", "embedded"))
    """Where tasks live."""
    database: str | Path = field(default_factory=_environment("database", "taskloom.db"))
    """Embedded: the SQLite file; made when missing. Files that end with -wal, -shm and -wake beside it belong to it."""
    synchronous: Synchronous = field(default_factory=_environment("synchronous", "FULL"))
    """Embedded: FULL survives a power cut; NORMAL survives any crash of programs, but may lose the last commits when
    the power goes, and is faster (source: SQLite documentation, "PRAGMA synchronous")."""
    lease_seconds: float = field(default_factory=_environment("lease_seconds", 60.0, float))
    """How long a claim holds unless it is renewed (a worker renews three times per lease): the longest time that a task
    of a killed worker waits."""
    grace_seconds: float = field(default_factory=_environment("grace_seconds", 30.0, float))
    """How long a worker that is asked to stop lets running handlers finish."""
    idempotency_ttl: float = field(default_factory=_environment("idempotency_ttl", 86400.0, float))
    """Seconds for which an idempotency key is remembered."""
    retry: Retry | None = field(default_factory=_environment("retry", None, _retry))
    """For task types without a policy of their own; None: the first exception is final."""
    ttl: float | timedelta | None = field(default_factory=_environment("ttl", None, float))
    """Seconds (or a timedelta) from its end for which a task is kept, where neither its type nor its creation says
    otherwise; None: for ever."""
    log_level: LogLevel = field(default_factory=_environment("log_level", "INFO"))
    """Which lines that handlers log are kept with their task: those of this level and above."""
    webhook_secret: str | None = field(default_factory=_environment("webhook_secret", None), repr=False)
    """Signs what is posted to the `notify_url` of tasks, and to webhooks without a secret of their own; 16 to 512
    characters."""
    webhook_private_addresses: bool = field(default_factory=_environment("webhook_private_addresses", False, _flag))
    """Whether webhooks may lead to private, loopback, link-local and reserved addresses."""
    auth: AuthName = field(default_factory=_environment("auth", "none"))
    """Web: how callers are known. none: not at all, so only programs on this machine are served; jwt: by a token that
    is checked here; gateway: by the claims that the authorizer of an API Gateway has checked."""
    auth_issuer: str | None = field(default_factory=_environment("auth_issuer", None))
    """jwt: the `iss` that tokens must have."""
    auth_audience: str | None = field(default_factory=_environment("auth_audience", None))
    """jwt: the `aud` that tokens must have."""
    auth_jwks: str | Path | None = field(default_factory=_environment("auth_jwks", None))
    """jwt: where the public keys are, as a JSON Web Key Set: an https address, or a file."""
    auth_user_claim: str = field(default_factory=_environment("auth_user_claim", "sub"))
    """The claim that names the user."""
    auth_tenant_claim: str = field(default_factory=_environment("auth_tenant_claim", "custom:tenant"))
    """The claim that holds the user's tenant code."""
    auth_roles_claim: str = field(default_factory=_environment("auth_roles_claim", "custom:roles"))
    """The claim that holds the user's roles."""
    cross_tenant_roles: Sequence[str] = field(default_factory=_environment("cross_tenant_roles", (), _names))
    """Roles whose holders choose another tenant by the header `x-tenant-code`. As a variable: separated by commas."""
    web_secret: str | None = field(default_factory=_environment("web_secret", None), repr=False)
    """Web: signs cursors and forms; at least 16 characters, the same in all processes that serve one address. None:
    made anew by each process."""
    max_body_bytes: int = field(default_factory=_environment("max_body_bytes", 1_048_576, int))
    """Web: the longest body of a request, and the longest line of a streamed one."""
    max_stream_bytes: int = field(default_factory=_environment("max_stream_bytes", 1_073_741_824, int))
    """Web: how long a streamed body (JSON lines) may be in all."""

    table_name: str | None = field(default_factory=_environment("table_name", None))
    """AWS: the DynamoDB table of tasks."""
    task_queue_url: str | None = field(default_factory=_environment("task_queue_url", None))
    """AWS: the SQS queue whose messages a Lambda function takes."""
    worker_queue_url: str | None = field(default_factory=_environment("worker_queue_url", None))
    """AWS: the SQS queue that `taskloom worker` polls; needed for task types with runs_on="worker"."""
    state_machine_arn: str | None = field(default_factory=_environment("state_machine_arn", None))
    """AWS: the Step Functions state machine that runs fan-outs."""
    payload_bucket: str | None = field(default_factory=_environment("payload_bucket", None))
    """AWS: the S3 bucket for inputs and results that are too large for the table."""
    topic_arn: str | None = field(default_factory=_environment("topic_arn", None))
    """AWS: the SNS topic to which the ends of tasks are published; None: they are not."""
    alarm_topic_arn: str | None = field(default_factory=_environment("alarm_topic_arn", None))
    """AWS: the SNS topic to which tasks that end FAILED are published; None: they are not."""

    def __post_init__(self) -> None:
        _one_of(self.backend, "backend", get_args(BackendName))
        _one_of(self.synchronous, "synchronous", get_args(Synchronous))
        _one_of(self.log_level, "log_level", get_args(LogLevel))
        _file(self.database)
        for name in _AWS_NAMES:
            _name(getattr(self, name), name)
        if self.webhook_secret is not None:
            check_secret(self.webhook_secret, "webhook_secret")
        if not isinstance(self.webhook_private_addresses, bool):
            problem = f"{self.webhook_private_addresses!r} is no truth value"
            raise InvalidType("webhook_private_addresses", problem, "give True or False")
        _one_of(self.auth, "auth", get_args(AuthName))
        number(self.lease_seconds, "lease_seconds", low=0.1, high=86400)
        number(self.grace_seconds, "grace_seconds", low=0, high=86400)
        number(self.idempotency_ttl, "idempotency_ttl", low=0.001, high=MAX_SECONDS)
        retention(self.ttl, "ttl")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise InvalidType("retry", f"{self.retry!r} is no Retry", "give taskloom.Retry(...) or None")
        self._check_web()

    def _check_web(self) -> None:
        for name in ("auth_user_claim", "auth_tenant_claim", "auth_roles_claim"):
            _text(getattr(self, name), name)
        for name in ("auth_issuer", "auth_audience"):
            if getattr(self, name) is not None:
                _text(getattr(self, name), name)
        if self.auth_jwks is not None and not isinstance(self.auth_jwks, Path):
            _text(self.auth_jwks, "auth_jwks")
            if self.auth_jwks.startswith("http://"):
                raise InvalidInput("auth_jwks", "is not encrypted, so anybody on the way may change keys", "use https")
        roles = self.cross_tenant_roles
        is_list = isinstance(roles, Sequence) and not isinstance(roles, (str, bytes))
        if not is_list or not all(isinstance(role, str) and role for role in roles):
            raise InvalidType("cross_tenant_roles", f"{roles!r} is no list of names", "give a tuple of role names")
        if self.web_secret is not None and (not isinstance(self.web_secret, str) or len(self.web_secret) < MIN_SECRET):
            raise InvalidInput("web_secret", "is too short to be one", f"give at least {MIN_SECRET} characters")
        whole_number(self.max_body_bytes, "max_body_bytes", low=1024, high=2**30)
        whole_number(self.max_stream_bytes, "max_stream_bytes", low=1024, high=2**40)


def _text(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise InvalidType(field, f"{value!r} is no string", "give a text")
    if not value:
        raise InvalidInput(field, "is empty", "give a text")


_AWS_NAMES: Final = (
    "table_name",
    "task_queue_url",
    "worker_queue_url",
    "state_machine_arn",
    "payload_bucket",
    "topic_arn",
    "alarm_topic_arn",
)


def _name(value: object, field: str) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidType(field, f"{value!r} is no string", "give it as AWS writes it, or None")
    if value == "":
        raise InvalidInput(field, "is empty", "give it as AWS writes it, or None")


def _file(database: object) -> None:
    if not isinstance(database, (str, os.PathLike)):
        raise InvalidType("database", f"{database!r} is no path", "give the path of a file")
    if not str(database) or str(database).startswith((":memory:", "file:")):
        raise InvalidInput(
            "database", f"{str(database)!r} is no file", "give the path of a file; tasks must outlive you"
        )


def _one_of(value: object, field: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(field, f"{value!r} is not known", f"give {' or '.join(repr(item) for item in allowed)}")
