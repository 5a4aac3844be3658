"""What the OpenAPI document promises, tried with made-up requests: every route, every kind of authentication."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from taskloom import Settings, TaskModule, TaskQueueEvent
from taskloom.web import Caller, events
from tests.web.serving import served
from tests.web.tokens import Issuer

# A key is more than a pattern: `pk` and `sk` must fit together, which OpenAPI cannot say, so 400 is right for some.
OPTIONS = ["--seed", "1", "--no-color", "--generation-database", "none", "--exclude-checks", "positive_data_acceptance"]
ROOT = Path(__file__).parents[2]
ALL = "SCHEMATHESIS_ALL" in os.environ
"""Whether to try everything, which takes minutes: `make api`."""
MODES = ["none", "jwt", "gateway", "function"]


class Gateway:
    """Stands where API Gateway and the Lambda entry do: checks the token, and hands the claims over."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_known = headers.get(b"authorization", b"").decode() == f"Bearer {self._token}"
        claims = {"sub": "mari", "custom:tenant": "mbc", "custom:roles": "[admin support]"}
        authorizer = {"jwt": {"claims": claims if is_known else {}}}
        scope["aws.event"] = {"requestContext": {"authorizer": authorizer, "http": {"sourceIp": "192.0.2.7"}}}
        await self._app(scope, receive, send)


def known(token: str) -> Callable[[Request], Caller | None]:
    def authenticate(request: Request) -> Caller | None:
        if request.headers.get("authorization") != f"Bearer {token}":
            return None
        return Caller(user_id="mari", tenant_code="mbc", roles=frozenset({"admin", "support"}))

    return authenticate


@pytest.mark.timeout(3600 if ALL else 120)
@pytest.mark.parametrize("mode", MODES)
def test_no_route_answers_what_the_document_does_not_say(
    mode: str,
    database: Path,
    issuer: Issuer,
    secured: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(events, "LONGEST", timedelta(milliseconds=50))  # else a stream would keep the caller waiting
    auth = mode if mode in ("none", "gateway") else "jwt"
    settings = secured(auth=auth, synchronous="NORMAL")
    module = TaskModule.register(settings=settings, enable_controller=True)

    @module.task("cat")
    async def cat(event: TaskQueueEvent) -> None:
        event.log.info("fed")

    token = issuer.token(roles=("admin", "support"))
    wrap = (lambda app: Gateway(app, token)) if mode == "gateway" else None
    options: dict[str, Any] = {"authenticate": known(token)} if mode == "function" else {}
    headers = ["-H", "x-tenant-code: mbc"]
    if mode != "none":
        headers += ["-H", f"Authorization: Bearer {token}"]
    try:
        with served(module, wrap=wrap, **options) as address:
            command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json", *headers]
            phases, examples = ("examples,fuzzing,stateful", "4") if mode == "jwt" else ("examples,stateful", "2")
            if ALL:
                phases, examples = "examples,coverage,fuzzing,stateful", "20"
            done = subprocess.run(
                [*command, *OPTIONS, "--phases", phases, "--max-examples", examples],
                capture_output=True,
                text=True,
                timeout=3600 if ALL else 110,
                cwd=tmp_path,
                env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.web.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            )
    finally:
        module.close()
    found = re.search(r"(\d+) generated", done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert found is not None
    with capsys.disabled():
        print(f"\nschemathesis, auth {mode}: {found[1]} cases")
