"""Signed text: what a caller gets to keep and gives back unchanged."""

import base64
import hashlib
import hmac
import json
import secrets
from typing import Final

from taskloom.errors import InvalidInput

MAC_BYTES: Final = 16


class Signer:
    """Signs text for a purpose; what was signed for one purpose counts for no other."""

    def __init__(self, secret: str | None) -> None:
        self._key = secrets.token_bytes(32) if secret is None else hashlib.sha256(secret.encode()).digest()

    def mac(self, *purpose: object) -> str:
        """The signature of *purpose*; also good as a token against forgery."""
        digest = hmac.digest(self._key, json.dumps([str(part) for part in purpose]).encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:MAC_BYTES]).decode().rstrip("=")

    def is_mac(self, mac: str, *purpose: object) -> bool:
        """Whether *mac* is the signature of *purpose*."""
        return hmac.compare_digest(mac.encode(), self.mac(*purpose).encode())

    def cursor(self, position: str | None, *purpose: object) -> str | None:
        """*position* as a cursor of the list that *purpose* names: whose it is, and of what."""
        return None if position is None else f"{position}.{self.mac('cursor', position, *purpose)}"

    def position(self, cursor: str | None, *purpose: object) -> str | None:
        """The position in *cursor*. Raises: InvalidInput when it is none of this list."""
        if cursor is None:
            return None
        position, _, mac = cursor.rpartition(".")
        if not position or not self.is_mac(mac, "cursor", position, *purpose):
            raise InvalidInput("cursor", "is none of this list", "pass on the cursor of the page before")
        return position
