"""An issuer of tokens, and modules whose web application asks for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskloom import Settings, TaskModule
from tests.web.tokens import AUDIENCE, ISSUER, Issuer

MakeModule = Callable[..., TaskModule]


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """Making keys takes a moment, so there is one for all tests."""
    return Issuer()


@pytest.fixture
def secured(issuer: Issuer, tmp_path: Path, database: Path) -> Callable[..., Settings]:
    """Settings that ask for tokens of `issuer`."""
    path = issuer.write(tmp_path)

    def make(**fields: Any) -> Settings:
        fields = {
            "database": database,
            "auth": "jwt",
            "auth_issuer": ISSUER,
            "auth_audience": AUDIENCE,
            "auth_jwks": path,
            "cross_tenant_roles": ("support",),
            **fields,
        }
        return Settings(**fields)

    return make
