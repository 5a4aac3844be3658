"""Checking JSON Web Tokens against the public keys of their issuer."""

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import jwt
from jwt import PyJWK, PyJWKSet

from taskloom.errors import InvalidInput, NotAuthenticated
from taskloom.ports import Clock
from taskloom.settings import Settings

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY: Final = timedelta(seconds=30)
"""How far the clocks of issuer and server may differ."""
KEEP: Final = timedelta(minutes=10)
"""How long keys are used without being looked for again."""
AGAIN: Final = timedelta(seconds=10)
"""How soon an unknown key is looked for again: whoever invents key ids must not make us call the issuer each time."""
FETCH_SECONDS: Final = 5.0
MAX_KEYS_BYTES: Final = 1_048_576

log = logging.getLogger(__name__)


class Keys:
    """The public keys of an issuer, at an https address or in a file."""

    def __init__(self, source: str | Path, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._keys: Mapping[str | None, PyJWK] = {}
        self._read_at: datetime | None = None
        self._lock: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self, kid: str | None) -> PyJWK:
        """The key *kid*; without id the only one. Raises: NotAuthenticated."""
        key = self._find(kid)
        if key is None or self._age() > KEEP:
            async with self._locked():
                if self._age() > (KEEP if self._find(kid) else AGAIN):
                    await self._read()
            key = self._find(kid)
        if key is None:
            raise NotAuthenticated("the token is signed with an unknown key")
        return key

    def _locked(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._lock is None or self._loop is not loop:
            self._lock, self._loop = asyncio.Lock(), loop
        return self._lock

    def _age(self) -> timedelta:
        return timedelta.max if self._read_at is None else self._clock.now() - self._read_at

    def _find(self, kid: str | None) -> PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _read(self) -> None:
        self._read_at = self._clock.now()  # also of a try that fails: the next one waits
        try:
            text = await asyncio.to_thread(self._load)
            keys = PyJWKSet.from_dict(json.loads(text)).keys
        except (OSError, ValueError, jwt.PyJWTError) as error:  # those known before stay
            log.error("the keys of the issuer cannot be read", extra={"source": str(self._source), "error": str(error)})
            return
        self._keys = {key.key_id: key for key in keys if key.algorithm_name in ALGORITHMS}

    def _load(self) -> bytes:
        if isinstance(self._source, str) and self._source.startswith("https://"):
            request = Request(self._source, headers={"Accept": "application/json"})  # noqa: S310 - https, see above
            with urlopen(request, timeout=FETCH_SECONDS) as response:  # noqa: S310
                return bytes(response.read(MAX_KEYS_BYTES))
        return Path(self._source).read_bytes()


class Tokens:
    """Checks tokens: signature, issuer, audience, times."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        for field in ("auth_issuer", "auth_audience", "auth_jwks"):
            if getattr(settings, field) is None:
                variable = f"TASKLOOM_{field.upper()}"
                raise InvalidInput(field, "is missing, but auth is 'jwt'", f"give Settings({field}=...) or {variable}")
        self._issuer, self._audience = settings.auth_issuer, settings.auth_audience
        self._keys = Keys(settings.auth_jwks or "", clock)

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What *token* says. Raises: NotAuthenticated, without a word about what was wrong with the signature."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise NotAuthenticated("the token is not accepted")
            key = await self._keys.get(header.get("kid"))
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise NotAuthenticated("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.info("a token is not accepted", extra={"reason": str(error)})
            raise NotAuthenticated("the token is not accepted") from None
        return claims
