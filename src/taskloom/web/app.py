"""The ASGI application of a module."""

import logging
from importlib.metadata import version

from fastapi import FastAPI

from taskloom.module import TaskModule
from taskloom.operations.finding import Finding
from taskloom.ports import Backend
from taskloom.settings import Settings
from taskloom.web import dashboard, documentation, events, problems
from taskloom.web.auth import (
    Authenticate,
    Authenticator,
    CustomAuthentication,
    GatewayAuthentication,
    NoAuthentication,
    TokenAuthentication,
)
from taskloom.web.deps import Web
from taskloom.web.limits import BodyLimit
from taskloom.web.routes import callbacks, creating, health, queues, tasks, webhooks
from taskloom.web.signing import Signer
from taskloom.web.tokens import Tokens
from taskloom.web.watching import Hub

log = logging.getLogger(__name__)


def build_app(module: TaskModule, backend: Backend, authenticate: Authenticate | None = None) -> FastAPI:
    """See `TaskModule.asgi_app`."""
    finding = Finding(backend)
    web = Web(
        module=module,
        backend=backend,
        finding=finding,
        authenticate=_authenticator(module.settings, backend, authenticate),
        signer=Signer(module.settings.web_secret),
        cross_tenant_roles=frozenset(module.settings.cross_tenant_roles),
        hub=Hub(backend, finding),
    )
    app = FastAPI(title="Taskloom", docs_url=None, redoc_url=None, redirect_slashes=False)  # both load from elsewhere
    app.state.web = web
    app.add_middleware(BodyLimit, limit=module.settings.max_body_bytes, stream_limit=module.settings.max_stream_bytes)
    problems.install(app)
    app.include_router(health.router)
    if module.enable_controller:
        # The order counts: `by-code` and `events` would else be taken for keys.
        for part in (creating, events, tasks, queues, webhooks, callbacks):
            app.include_router(part.router)
    app.include_router(dashboard.router(web, takes_tokens=isinstance(web.authenticate, TokenAuthentication)))
    asks_for_token = not isinstance(web.authenticate, NoAuthentication)
    documentation.install(app, version("taskloom"), asks_for_token=asks_for_token)
    return app


def _authenticator(settings: Settings, backend: Backend, authenticate: Authenticate | None) -> Authenticator:
    if authenticate is not None:
        return CustomAuthentication(authenticate)
    if settings.auth == "jwt":
        return TokenAuthentication(settings, Tokens(settings, backend.clock))
    if settings.auth == "gateway":
        return GatewayAuthentication(settings)
    log.warning("authentication is off: every program on this machine may see and change every task")
    return NoAuthentication()
