"""Webhooks: where status changes are posted to, how a post is signed, and how its receiver checks that. Pure."""

import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

from taskloom import model
from taskloom.clock import SystemClock
from taskloom.errors import InvalidInput, InvalidType, SignatureRefused
from taskloom.model import TaskStatus
from taskloom.policy import Retry, number
from taskloom.values import check_text

SIGNATURE: Final = "Taskloom-Signature"
EVENT_ID: Final = "Taskloom-Event-Id"
ATTEMPT: Final = "Taskloom-Attempt"

STATUS_ACTION: Final = "task-status"
"""Each change of a task's status."""
ALARM_ACTION: Final = "sfn-alarm"
"""Each task that ends FAILED."""

MIN_SECRET: Final = 16
MAX_SECRET: Final = 512
MAX_URL: Final = 2048
MAX_NAME: Final = 128
TOLERANCE: Final = 300.0

WEBHOOK_RETRY: Final = Retry(max_attempts=15, initial=5.0, multiplier=2.0, maximum=3600.0)
"""Of a delivery: at most some four hours in all."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_V6_WITH_V4: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""Leads to the IPv4 address in its last 32 bits (source: RFC 6052)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Of which changes a listener is told."""

    action: str = STATUS_ACTION
    statuses: frozenset[TaskStatus] | None = None
    task_types: frozenset[str] | None = None
    sub_tasks: bool = False


ALL_CHANGES: Final = Filter()


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts what happens to tasks to *url*, an http or https address, signed with *secret*.

    *secret* (default: `Settings.webhook_secret`) has 16 to 512 characters. *statuses* and *task_types* narrow what is
    posted (None: all). *sub_tasks*: those of fan-outs too. *action*: "task-status" for changes, or "sfn-alarm" for one
    alarm per task that ends FAILED. *name* is what operators see, and under which deliveries wait (default: made of the
    host and a checksum of address and action). *retry*: how often, and after which pauses, a failed delivery is tried.
    Raises: InvalidInput, InvalidType.
    """

    url: str
    secret: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, kw_only=True)
    statuses: Sequence[TaskStatus | str] | None = field(default=None, kw_only=True)
    task_types: Sequence[str] | None = field(default=None, kw_only=True)
    sub_tasks: bool = field(default=False, kw_only=True)
    action: str = field(default=STATUS_ACTION, kw_only=True)
    retry: Retry = field(default=WEBHOOK_RETRY, kw_only=True)

    def __post_init__(self) -> None:
        checked_url(self.url, "webhook.url", allow_private=True)
        if self.secret is not None:
            check_secret(self.secret, "webhook.secret")
        if not isinstance(self.retry, Retry):
            raise InvalidType("webhook.retry", f"{self.retry!r} is no Retry", "give taskloom.Retry(...)")
        if self.name is not None:
            listener_name(self.name, "webhook.name")
        self.filter()

    def filter(self) -> Filter:
        """What is posted."""
        return checked_filter("webhook.", self.action, self.statuses, self.task_types, self.sub_tasks)

    def listener(self) -> str:
        """The name under which deliveries wait."""
        if self.name is not None:
            return self.name
        digest = hashlib.sha256(f"{self.action} {self.url}".encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9.-]', '-', urlsplit(self.url).hostname or '')[:100]}-{digest}"


def listener_name(name: object, field: str) -> str:
    """*name* as that of a webhook or a subscription. Raises: InvalidInput or InvalidType naming *field*."""
    allowed = f"1 to {MAX_NAME} letters, digits, '.', '_' or '-'"
    if not isinstance(name, str):
        raise InvalidType(field, f"{name!r} is no string", f"give {allowed}")
    if not _NAME.fullmatch(name):
        raise InvalidInput(field, f"{name[:140]!r} is not allowed", f"give {allowed}")
    return name


def checked_filter(
    path: str,
    action: object,
    statuses: Iterable[TaskStatus | str] | None,
    task_types: Iterable[str] | None,
    sub_tasks: object,
) -> Filter:
    """What a listener asks for. Raises: InvalidInput or InvalidType, naming fields behind *path*."""
    if action not in (STATUS_ACTION, ALARM_ACTION):
        raise InvalidInput(f"{path}action", f"{action!r} is not known", f"give {STATUS_ACTION!r} or {ALARM_ACTION!r}")
    if action == ALARM_ACTION and statuses is not None:
        raise InvalidInput(f"{path}statuses", "is given for alarms, which are of FAILED alone", "leave it out")
    if not isinstance(sub_tasks, bool):
        raise InvalidType(f"{path}sub_tasks", f"{sub_tasks!r} is no truth value", "give True or False")
    wanted = None if statuses is None else frozenset(map(_status(path), _listed(statuses, f"{path}statuses")))
    types = None
    if task_types is not None:
        types = frozenset(
            model.task_type(item, f"{path}task_types") for item in _listed(task_types, f"{path}task_types")
        )
    return Filter(action=str(action), statuses=wanted, task_types=types, sub_tasks=sub_tasks)


def _listed(values: object, field: str) -> Sequence[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidType(field, f"{values!r} is no list", "give a list")
    listed = list(values)
    if not listed:
        raise InvalidInput(field, "is empty, so nothing would ever come", "give at least one, or leave it out")
    return listed


def _status(path: str) -> Any:
    def status(value: object) -> TaskStatus:
        try:
            return TaskStatus(str(value))
        except ValueError:
            names = ", ".join(TaskStatus)
            raise InvalidInput(f"{path}statuses", f"{value!r} is not known", f"give some of {names}") from None

    return status


def check_secret(secret: object, field: str) -> None:
    """Raise InvalidInput or InvalidType, naming *field*, for what is no secret; it is not shown."""
    if not isinstance(secret, str):
        raise InvalidType(field, f"{type(secret).__name__} is no string", "give a text")
    if not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise InvalidInput(field, f"has {len(secret)} characters", f"give {MIN_SECRET} to {MAX_SECRET} random ones")
    check_text(secret, field)


def checked_url(url: object, field: str, *, allow_private: bool) -> SplitResult:
    """The parts of *url*. Raises: InvalidInput or InvalidType naming *field*; the address itself is not shown."""
    remedy = "give an address like https://example.com/hook"
    if not isinstance(url, str):
        raise InvalidType(field, f"{type(url).__name__} is no string", remedy)
    if len(url) > MAX_URL:
        raise InvalidInput(field, f"has {len(url)} characters", f"give at most {MAX_URL}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidInput(field, "has characters that no address has", "escape them, and write hosts in punycode")
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError as error:
        raise InvalidInput(field, f"is no address: {error}", remedy) from None
    if split.scheme not in ("http", "https") or not host or port == 0:
        raise InvalidInput(field, "is no http or https address with a host", remedy)
    if "@" in split.netloc:
        raise InvalidInput(field, "contains credentials", "the signature tells who sends; leave them out")
    if split.fragment:
        raise InvalidInput(field, "has a fragment, which is never sent", "leave out what begins with '#'")
    if not allow_private and _is_private_literal(host):
        raise InvalidInput(field, "is a private address", "set Settings.webhook_private_addresses to allow it")
    return split


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return False  # a name: what it stands for shows when it is connected to


def is_public(address: str) -> bool:
    """Whether the IP *address* belongs to the internet at large. Raises: ValueError when it is no IP address.

    Private, loopback, link-local, shared, reserved, multicast and unspecified addresses do not; nor do IPv6 addresses
    that stand for such an IPv4 address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _V6_WITH_V4:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        embedded = [address for address in inner if address is not None]
        if embedded:
            return all(is_public(str(address)) for address in embedded)
        if found.is_site_local:
            return False
    return found.is_global and not (
        found.is_multicast or found.is_reserved or found.is_loopback or found.is_link_local or found.is_unspecified
    )


def signature(secret: str, body: bytes, now: datetime) -> str:
    """What stands in the header `Taskloom-Signature`: `t=<Unix seconds>,v1=<HMAC-SHA256 of "<t>.<body>" in hex>`."""
    seconds = int(now.timestamp())
    return f"t={seconds},v1={_digest(secret, seconds, body)}"


def _digest(secret: str, seconds: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()


class Headers(Protocol):
    """The headers of a request, as the frameworks have them: a mapping, or something like it."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Each name with its value."""


def verify_webhook(
    secret: str | Sequence[str],
    headers: Headers,
    body: bytes,
    tolerance: float = TOLERANCE,
    *,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The message of a webhook, for its receiver; checked to come from who knows *secret*, unchanged and not long ago.

    *headers* in any case of letters, *body* as it was received: the bytes. Several secrets may be given while one takes
    the place of another. *tolerance*: seconds that the post may be old, or the clocks apart. A message may come more
    than once: `eventId` says which it is. *now* is for tests.
    Raises: SignatureRefused; InvalidInput, InvalidType.
    """
    secrets = [secret] if isinstance(secret, str) else list(secret)
    for item in secrets:
        check_secret(item, "secret")
    if not isinstance(body, (bytes, bytearray)):
        raise InvalidType("body", f"{type(body).__name__} is no bytes", "give the body as it was received")
    number(tolerance, "tolerance", low=0, high=86400 * 366)
    found = [value for name, value in headers.items() if name.lower() == SIGNATURE.lower()]
    if len(found) != 1:
        raise SignatureRefused(f"there are {len(found)} headers {SIGNATURE}")
    seconds, digests = _parsed(found[0])
    expected = [_digest(item, seconds, bytes(body)) for item in secrets]
    matches = [hmac.compare_digest(mine, theirs) for mine in expected for theirs in digests]
    if not any(matches):
        raise SignatureRefused("it was not made with this secret, or the body was changed")
    moment = SystemClock().now() if now is None else now
    if abs(moment.astimezone(UTC).timestamp() - seconds) > tolerance:
        raise SignatureRefused(f"it is more than {tolerance:g} s old, or the clocks differ")
    try:
        message = json.loads(body)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise SignatureRefused("the body is no JSON object")
    return message


def _parsed(header: str) -> tuple[int, Sequence[str]]:
    """When it was signed, and the signatures."""
    pairs = [part.strip().partition("=") for part in str(header)[:4096].split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    digests = [value for name, _, value in pairs if name == "v1" and re.fullmatch("[0-9a-f]{64}", value)]
    if len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]) or not digests:
        raise SignatureRefused(f"the header {SIGNATURE} cannot be read")
    return int(times[0]), digests
