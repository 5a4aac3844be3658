"""The stack as a template, made once."""

import os
from typing import Any

import pytest

# The program that CDK runs in says at each start which versions of Node.js it was tested with.
os.environ.setdefault("JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION", "1")
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "1")

from taskloom.deploy.api import Jwt
from taskloom.deploy.template import template

Template = dict[str, Any]


@pytest.fixture(scope="session")
def plain() -> Template:
    """The plain template, with an HTTP API."""
    jwt = Jwt(issuer="https://cognito-idp.eu-central-1.amazonaws.com/pool", audience=["web"])
    return template("demo", code_key="demo.zip", timeout=600, max_concurrency=50, jwt=jwt)
