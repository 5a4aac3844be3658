"""One object that configures a module."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

from taskloom.errors import InvalidInput, InvalidType
from taskloom.policy import MAX_SECONDS, Retry, number, retention
from taskloom.webhooks import check_secret

PREFIX: Final = "TASKLOOM_"

BackendName = Literal["embedded"]
Synchronous = Literal["FULL", "NORMAL"]
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

    def __post_init__(self) -> None:
        _one_of(self.backend, "backend", get_args(BackendName))
        _one_of(self.synchronous, "synchronous", get_args(Synchronous))
        _one_of(self.log_level, "log_level", get_args(LogLevel))
        _file(self.database)
        if self.webhook_secret is not None:
            check_secret(self.webhook_secret, "webhook_secret")
        if not isinstance(self.webhook_private_addresses, bool):
            problem = f"{self.webhook_private_addresses!r} is no truth value"
            raise InvalidType("webhook_private_addresses", problem, "give True or False")
        number(self.lease_seconds, "lease_seconds", low=0.1, high=86400)
        number(self.grace_seconds, "grace_seconds", low=0, high=86400)
        number(self.idempotency_ttl, "idempotency_ttl", low=0.001, high=MAX_SECONDS)
        retention(self.ttl, "ttl")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise InvalidType("retry", f"{self.retry!r} is no Retry", "give taskloom.Retry(...) or None")


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
