"""What the OpenAPI document says beyond what the routes say themselves."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from taskloom.web.deps import ROLE, TENANT_HEADER
from taskloom.web.models import Problem
from taskloom.web.problems import MEDIA_TYPE, TITLES

DESCRIPTION: Final = """Create tasks, watch them, steer them.

A caller acts in the tenant of its token. Bodies are JSON, unknown fields are refused, every error is a problem document
(RFC 9457) that names the field. Every list has a `cursor`: null says that nothing follows. In addresses `#` is `%23`.
"""
_ALWAYS: Final = (400, 401, 403, 413, 500, 503)
"""What every operation of the REST interface may answer."""


def answers(*statuses: int, **shown: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: *statuses* beside those that every route may give, and models as `ok=Model`."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": TITLES[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}
        for status in sorted({*_ALWAYS, *statuses})
    }
    for name, model in shown.items():
        found[int(name.removeprefix("s"))] = {"model": model, "description": (model.__doc__ or "").strip()}
    return found


_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


def install(app: FastAPI, version: str, *, asks_for_token: bool) -> None:
    """Have *app* show its document at `/openapi.json`."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, version, asks_for_token)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation does it


def _document(app: FastAPI, version: str, asks_for_token: bool) -> dict[str, Any]:
    document = get_openapi(title="Taskloom", version=version, description=DESCRIPTION, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    if asks_for_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        document["security"] = [{"token": []}]
    components["parameters"] = {
        "Tenant": {
            "name": TENANT_HEADER,
            "in": "header",
            "required": False,
            "description": "Act in this tenant; for roles that may.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        }
    }
    links = dict(_links(document["paths"]))
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete(operation)
            if "202" in operation["responses"]:
                operation["responses"]["202"]["links"] = links
    return document


def _links(paths: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where one can go on with a task that was just created."""
    for path, operations in paths.items():
        names = [name for name in ("pk", "sk", "code") if f"{{{name}}}" in path]
        if names:
            for operation in operations.values():
                parameters = {name: f"$response.body#/{name}" for name in names}
                yield operation["operationId"], {"operationId": operation["operationId"], "parameters": parameters}


def _complete(operation: dict[str, Any]) -> None:
    answers_: Mapping[str, Any] = operation["responses"]
    if "422" in answers_ and MEDIA_TYPE not in answers_["422"].get("content", {}):
        operation["responses"] = {status: answer for status, answer in answers_.items() if status != "422"}
    if ROLE not in operation:
        operation["security"] = []
    else:
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/Tenant"})
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds the role {operation[ROLE]}.".strip()
