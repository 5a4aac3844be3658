"""Tokens as an issuer makes them, good ones and bad ones."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example/pool"
AUDIENCE = "taskloom-tests"


class Issuer:
    """Signs tokens with a key of each kind, and publishes the public ones."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def jwks(self) -> str:
        """The key set."""
        writers: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        keys = []
        for name, key in self.keys.items():
            found = json.loads(writers[name].to_jwk(key.public_key()))
            keys.append({**found, "kid": name, "use": "sig", "alg": name})
        return json.dumps({"keys": keys})

    def write(self, folder: Path) -> Path:
        """The key set as a file."""
        path = folder / "jwks.json"
        path.write_text(self.jwks())
        return path

    def token(
        self,
        *,
        user: str = "mari",
        tenant: str | None = "mbc",
        roles: Any = ("viewer",),
        algorithm: str = "RS256",
        expires_in: float = 3600,
        **claims: Any,
    ) -> str:
        """A token of *user*; *claims* replace or add (None leaves one out)."""
        content = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user,
            "exp": _now() + int(expires_in),
            "custom:tenant": tenant,
            "custom:roles": list(roles) if isinstance(roles, tuple) else roles,
            **claims,
        }
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(content, self.keys[algorithm], algorithm=algorithm, headers={"kid": algorithm})


def _now() -> int:
    from taskloom.clock import SystemClock

    return int(SystemClock().now().timestamp())


def unsigned(token: str) -> str:
    """The same claims under `alg: none`."""
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


def with_broken_signature(token: str) -> str:
    """The same claims under a signature of other content."""
    head, claims, signature = token.split(".")
    first = "B" if signature[0] == "A" else "A"
    return f"{head}.{claims}.{first}{signature[1:]}"


def signed_with_public_key(issuer: Issuer, token: str) -> str:
    """The same claims under an HMAC whose secret is the issuer's public key, which everybody knows."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives import serialization

    secret = (
        issuer.keys["RS256"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"RS256"}').decode().rstrip("=")
    content = f"{header}.{token.split('.')[1]}"
    mac = base64.urlsafe_b64encode(hmac.digest(secret, content.encode(), hashlib.sha256)).decode().rstrip("=")
    return f"{content}.{mac}"
