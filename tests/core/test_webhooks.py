"""Webhooks as values: addresses, signatures, filters."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom import Retry, TaskStatus, Webhook, verify_webhook
from taskloom.errors import InvalidInput, InvalidType, SignatureRefused
from taskloom.webhooks import SIGNATURE, Filter, checked_url, is_public, signature

SECRET = "0123456789abcdef"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
BODY = json.dumps({"action": "task-status", "eventId": "x#1"}).encode()


def signed(body: bytes = BODY, secret: str = SECRET, now: datetime = NOW) -> dict[str, str]:
    return {SIGNATURE: signature(secret, body, now)}


# --- signatures -------------------------------------------------------------------------------------------------------


def test_the_signature_is_the_documented_one() -> None:
    """Computed here by hand, as a receiver in any language would."""
    seconds = int(NOW.timestamp())
    digest = hmac.new(SECRET.encode(), f"{seconds}.".encode() + BODY, hashlib.sha256).hexdigest()
    assert signed() == {"Taskloom-Signature": f"t={seconds},v1={digest}"}


def test_what_was_signed_is_verified() -> None:
    assert verify_webhook(SECRET, signed(), BODY, now=NOW) == json.loads(BODY)
    assert verify_webhook(SECRET, {"taskloom-signature": signed()[SIGNATURE], "host": "x"}, BODY, now=NOW)


@given(body=st.dictionaries(st.text(), st.integers()), secret=st.text(min_size=16, max_size=64))
def test_any_message_and_secret(body: dict[str, int], secret: str) -> None:
    if not secret.isascii():  # a lone surrogate has no bytes
        secret = secret.encode("utf-8", "replace").decode()
    data = json.dumps(body).encode()
    assert verify_webhook(secret, signed(data, secret), data, now=NOW) == body


def test_secrets_may_be_exchanged() -> None:
    new = "another secret of mine"
    for secret in (SECRET, new):
        assert verify_webhook([new, SECRET], signed(secret=secret), BODY, now=NOW)
    with pytest.raises(SignatureRefused):
        verify_webhook([new], signed(), BODY, now=NOW)


def test_a_second_signature_may_stand_beside() -> None:
    time, _, mine = signed()[SIGNATURE].partition(",")
    header = f"{time},v0=abc,v1={'0' * 64},{mine}"
    assert verify_webhook(SECRET, {SIGNATURE: header}, BODY, now=NOW)


@pytest.mark.parametrize("seconds", [-301, 301, 86400])
def test_too_old_and_from_the_future(seconds: int) -> None:
    with pytest.raises(SignatureRefused, match="300 s old"):
        verify_webhook(SECRET, signed(), BODY, now=NOW + timedelta(seconds=seconds))
    assert verify_webhook(SECRET, signed(), BODY, 86400, now=NOW + timedelta(seconds=seconds))


def test_within_the_tolerance() -> None:
    for seconds in (-300, 0, 300):
        assert verify_webhook(SECRET, signed(), BODY, now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {SIGNATURE: ""},
        {SIGNATURE: "v1=" + "0" * 64},
        {SIGNATURE: "t=1"},
        {SIGNATURE: "t=,v1=" + "0" * 64},
        {SIGNATURE: "t=-1,v1=" + "0" * 64},
        {SIGNATURE: "t=1,t=2,v1=" + "0" * 64},
        {SIGNATURE: "t=9" + "9" * 5000 + ",v1=" + "0" * 64},
        {SIGNATURE: signed()[SIGNATURE].upper()},
        {**signed(), SIGNATURE.lower(): signed()[SIGNATURE]},
        signed(secret="fedcba9876543210"),
        signed(BODY + b" "),
        {SIGNATURE: signed()[SIGNATURE].replace("t=1", "t=2")},
    ],
    ids=range(13),
)
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureRefused):
        verify_webhook(SECRET, headers, BODY, now=NOW)


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(SignatureRefused, match="no JSON object"):
            verify_webhook(SECRET, signed(body), body, now=NOW)


@pytest.mark.parametrize(
    ("secret", "body", "field"), [("short", BODY, "secret"), (7, BODY, "secret"), (SECRET, BODY.decode(), "body")]
)
def test_what_a_receiver_may_get_wrong(secret: Any, body: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        verify_webhook(secret if isinstance(secret, str) else [secret], signed(), body, now=NOW)
    assert refused.value.field == field


def test_the_clock_of_the_machine_counts_by_default() -> None:
    with pytest.raises(SignatureRefused, match="300 s old"):
        verify_webhook(SECRET, signed(now=datetime(2020, 1, 1, tzinfo=UTC)), BODY)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254"),
        *("0.0.0.0", "0.1.2.3", "100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1"),
        *("ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:0:7f00:1::", "::127.0.0.1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "example.com/hook",
        "https://",
        "https:///hook",
        "https://user:password@example.com/",
        "https://user@example.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://example.com/#here",
        "https://example.com/a b",
        "https://example.com/\r\nHost: evil",
        "https://exämple.com/",
        "https://[::1/",
        "https://example.com/" + "a" * 2048,
        "",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_url(url, "notify_url", allow_private=True)
    assert refused.value.field == "notify_url"
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.1.2.3:8080", "169.254.169.254", "[::ffff:127.0.0.1]"])
def test_private_addresses_that_show_are_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidInput, match="webhook_private_addresses"):
        checked_url(f"http://{host}/hook", "notify_url", allow_private=False)
    assert checked_url(f"http://{host}/hook", "notify_url", allow_private=True)


def test_what_is_no_text_is_no_address() -> None:
    with pytest.raises(InvalidType):
        checked_url(b"https://example.com/", "notify_url", allow_private=True)


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_the_name_tells_host_and_action_but_not_the_address() -> None:
    url = "https://example.com:8443/hook?token=secret"
    status, alarm = Webhook(url, SECRET), Webhook(url, SECRET, action="sfn-alarm")
    assert status.listener().startswith("example.com-")
    assert status.listener() != alarm.listener()
    assert status.listener() == Webhook(url, "another secret of mine", task_types=["cat"]).listener()
    assert Webhook(url, SECRET, name="shop").listener() == "shop"
    assert Webhook("http://[2606:4700::1111]/", SECRET).listener().startswith("2606-4700--1111-")


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(Webhook("https://example.com/", SECRET))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"url": "example.com"}, "webhook.url"),
        ({"secret": "short"}, "webhook.secret"),
        ({"secret": "\ud800" * 16}, "webhook.secret"),
        ({"name": ""}, "webhook.name"),
        ({"statuses": ["DONE"]}, "webhook.statuses"),
        ({"task_types": "cat"}, "webhook.task_types"),
        ({"sub_tasks": "yes"}, "webhook.sub_tasks"),
        ({"action": "alarm"}, "webhook.action"),
        ({"retry": 3}, "webhook.retry"),
    ],
)
def test_a_bad_option_names_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Webhook(**{"url": "https://example.com/", "secret": SECRET, **options})
    assert refused.value.field == field


def test_all_options() -> None:
    webhook = Webhook(
        "https://example.com/", statuses=["COMPLETED"], task_types=["cat"], sub_tasks=True, retry=Retry(max_attempts=1)
    )
    assert webhook.secret is None
    assert webhook.filter() == Filter(
        statuses=frozenset({TaskStatus.COMPLETED}), task_types=frozenset({"cat"}), sub_tasks=True
    )
