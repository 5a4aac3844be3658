"""How callers become known."""

import asyncio
import datetime
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request

from taskloom import Settings
from taskloom.errors import InvalidInput
from taskloom.web import Caller
from taskloom.web.auth import COOKIE, is_loopback, roles_of
from tests.conftest import MakeModule
from tests.support.clock import FakeClock
from tests.web.calling import caller
from tests.web.tokens import Issuer


def status(app: Any, path: str = "/tasks/mbc", token: str | None = None, method: str = "GET", **options: Any) -> int:
    base_url = options.pop("base_url", "http://127.0.0.1")
    cookies = options.pop("cookies", {})

    async def ask() -> int:
        async with caller(app, token, base_url=base_url, **options) as client:
            client.cookies.update(cookies)
            return (await client.request(method, path, json={} if method == "POST" else None)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_tokens_of_each_algorithm_are_accepted(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer, algorithm: str
) -> None:
    app = make_module(enable_controller=True, settings=secured()).asgi_app()
    assert status(app, token=issuer.token(algorithm=algorithm)) == 200


@pytest.mark.parametrize(
    "claims",
    [{"exp": None}, {"iss": None}, {"aud": None}, {"sub": None}, {"sub": 7}, {"nbf": 2**40}, {"exp": "soon"}],
    ids=str,
)
def test_a_token_that_lacks_something_is_refused(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer, claims: dict[str, Any]
) -> None:
    app = make_module(enable_controller=True, settings=secured()).asgi_app()
    assert status(app, token=issuer.token(**claims)) == 401


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "é", "a" * 5000])
def test_nonsense_is_no_token(make_module: MakeModule, secured: Callable[..., Settings], token: str) -> None:
    app = make_module(enable_controller=True, settings=secured()).asgi_app()
    assert status(app, authorization=f"Bearer {token}") == 401
    assert status(app, authorization=f"Basic {token}") == 401


def test_the_claims_are_called_as_the_settings_say(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    settings = secured(auth_user_claim="username", auth_tenant_claim="org", auth_roles_claim="groups")
    app = make_module(enable_controller=True, settings=settings).asgi_app()
    token = issuer.token(tenant=None, roles=None, username="mari", org="mbc", groups=["viewer"])
    assert status(app, token=token) == 200
    assert status(app, token=issuer.token()) == 401


@pytest.mark.parametrize(
    ("claim", "names"),
    [
        (["viewer", "admin"], ["viewer", "admin"]),
        ("viewer", ["viewer"]),
        ("viewer,admin support", ["viewer", "admin", "support"]),
        ('["viewer"]', ["viewer"]),
        ("[viewer admin]", ["viewer", "admin"]),
        ('[{"tenant": "mbc", "role": "admin"}, {"tenant": "x", "role": "viewer"}]', ["admin"]),
        ('[{"tenant": "", "role": "admin"}, {"role": "viewer"}]', ["admin", "viewer"]),
        ([{"tenant": "mbc", "role": 7}, 8, None], []),
        (None, []),
        (7, []),
        ("", []),
    ],
)
def test_roles_are_read_from_what_issuers_write(claim: object, names: list[str]) -> None:
    assert roles_of(claim, "mbc") == names


def test_a_cookie_is_a_token_where_it_comes_from_the_same_site(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    app = make_module(enable_controller=True, settings=secured()).asgi_app()
    cookies = {COOKIE: issuer.token(roles=("admin",))}
    assert status(app, cookies=cookies) == 200
    path = "/queues/resume"
    assert status(app, path, method="POST", cookies=cookies, origin="http://127.0.0.1") == 400  # an empty body
    assert status(app, path, method="POST", cookies=cookies, origin="https://evil.example") == 403
    assert status(app, path, method="POST", cookies=cookies, sec_fetch_site="cross-site") == 403
    assert status(app, path, method="POST", cookies=cookies) == 400  # a program, not a browser


def test_without_authentication_only_this_machine_is_served(make_module: MakeModule) -> None:
    app = make_module(enable_controller=True).asgi_app()
    assert status(app) == 200
    assert status(app, base_url="http://localhost") == 200
    assert status(app, base_url="http://192.0.2.7") == 403
    assert status(app, host="evil.example") == 403  # a name that somebody made lead here
    assert status(app, "/queues/resume", method="POST", origin="https://evil.example") == 403


def test_without_authentication_it_is_said_in_the_log(
    make_module: MakeModule, caplog: pytest.LogCaptureFixture
) -> None:
    make_module(enable_controller=True).asgi_app()
    assert any("authentication is off" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_which_names_are_this_machine(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own


def test_the_claims_of_a_gateway_come_from_its_event_alone(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer
) -> None:
    app: Any = make_module(enable_controller=True, settings=secured(auth="gateway")).asgi_app()
    claims = {"sub": "mari", "custom:tenant": "mbc", "custom:roles": "[viewer]"}

    def behind(event: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "aws.event": event} if event is not None else scope, receive, send)

        return wrapped

    http_api = {"requestContext": {"authorizer": {"jwt": {"claims": claims}}, "http": {"sourceIp": "192.0.2.7"}}}
    rest_api = {"requestContext": {"authorizer": {"claims": claims}, "identity": {"sourceIp": "192.0.2.7"}}}
    assert status(behind(http_api)) == 200
    assert status(behind(rest_api)) == 200
    assert status(behind({"requestContext": {}})) == 401
    assert status(behind({"requestContext": {"authorizer": {"jwt": {"claims": {}}}}})) == 401
    assert status(behind(None), token=issuer.token()) == 401
    assert status(behind(http_api), "/tasks/other") == 403


def test_a_function_of_the_application_may_say_who_calls(make_module: MakeModule) -> None:
    async def by_header(request: Request) -> Caller | None:
        user = request.headers.get("x-user")
        return None if user is None else Caller(user_id=user, tenant_code="mbc", roles=frozenset({"viewer"}))

    module = make_module(enable_controller=True)
    for function in (by_header, lambda request: Caller(tenant_code="mbc", roles=frozenset({"viewer"}))):
        app = module.asgi_app(authenticate=function)
        assert status(app, x_user="mari") == 200
        assert status(app, "/tasks/other", x_user="mari") == 403
    assert status(module.asgi_app(authenticate=by_header)) == 401
    assert status(module.asgi_app(authenticate=lambda request: "mari"), x_user="mari") == 500  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("field", ["auth_issuer", "auth_audience", "auth_jwks"])
def test_what_tokens_need_is_asked_for_at_once(
    make_module: MakeModule, secured: Callable[..., Settings], field: str
) -> None:
    module = make_module(enable_controller=True, settings=secured(**{field: None}))
    with pytest.raises(InvalidInput, match=f"TASKLOOM_{field.upper()}") as refused:
        module.asgi_app()
    assert refused.value.field == field


def test_new_keys_are_looked_for_but_not_at_every_request(
    make_module: MakeModule, secured: Callable[..., Settings], tmp_path: Path, clock: FakeClock
) -> None:
    old, new = Issuer(), Issuer()
    new.keys["RS256"], kept = old.keys["RS256"], new.keys["RS256"]
    settings = secured(auth_jwks=old.write(tmp_path))
    app = make_module(enable_controller=True, settings=settings, clock=clock).asgi_app()
    assert status(app, token=old.token(algorithm="ES256")) == 200
    new.keys["RS256"] = kept
    keys = json.loads(new.jwks())
    for key in keys["keys"]:
        key["kid"] = f"new-{key['kid']}"
    (tmp_path / "jwks.json").write_text(json.dumps(keys))

    def signed() -> str:
        claims = jwt.decode(new.token(), options={"verify_signature": False})
        return jwt.encode(claims, kept, algorithm="RS256", headers={"kid": "new-RS256"})

    assert status(app, token=signed()) == 401  # looked for a moment ago
    clock.advance(11)
    assert status(app, token=signed()) == 200
    clock.advance(601)
    assert status(app, token=old.token(algorithm="ES256")) == 401  # withdrawn


def test_keys_stay_known_while_they_cannot_be_read(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer, tmp_path: Path, clock: FakeClock
) -> None:
    app = make_module(enable_controller=True, settings=secured(), clock=clock).asgi_app()
    assert status(app, token=issuer.token()) == 200
    (tmp_path / "jwks.json").write_text("no keys")
    clock.advance(601)
    assert status(app, token=issuer.token()) == 200


class _Keys(BaseHTTPRequestHandler):
    text = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self).text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def https_keys(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The key set at an https address of this machine, whose certificate is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(private + public)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(public)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    handler = type("Keys", (_Keys,), {"text": issuer.jwks().encode()})
    server = HTTPServer(("localhost", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}/jwks.json"
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_come_from_an_https_address(
    make_module: MakeModule, secured: Callable[..., Settings], issuer: Issuer, https_keys: str
) -> None:
    app = make_module(enable_controller=True, settings=secured(auth_jwks=https_keys)).asgi_app()
    assert status(app, token=issuer.token()) == 200
    assert status(app, token=Issuer().token()) == 401
