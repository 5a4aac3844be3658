"""How Schemathesis writes JSON lines; it reads this file by the variable SCHEMATHESIS_HOOKS."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def json_lines(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    """Each value that it makes up as a list, one element per line."""
    values = value if isinstance(value, list) else [value]
    return b"".join(json.dumps(item).encode() + b"\n" for item in values)
