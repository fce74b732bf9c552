"""`/openapi.json`: what can be submitted and what comes of it, job by job, as OpenAPI 3.1 describes it.

Parameters come from a job's signature, its result from the annotation of what it returns. A generator of types makes
of it what `createClient<paths>()` of the TypeScript client checks names, parameters and results against.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, get_type_hints

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..jobs import JobRequest, JobSpec
from ..wire import messages
from .reading import JSON, root

_REFS = "#/components/schemas/{model}"
_SAID: tuple[type[BaseModel], ...] = (
    messages.JobView,
    messages.JobEvent,
    messages.AppEvent,
    messages.PollAnswer,
    messages.Problem,
)


class Identity(messages.Said):
    """Who the caller is. `channels` are the groups that its credentials name."""

    tenant: str
    user: str
    channels: list[messages.ChannelName]
    expires_at: str | None


def result_type(spec: JobSpec) -> Any:
    """What the job's function says that it returns; `Any` where it says nothing that has a JSON Schema."""
    try:
        found = get_type_hints(spec.function, include_extras=True).get("return", Any)
        TypeAdapter(found).json_schema(mode="serialization")
        return found
    except (NameError, TypeError, PydanticUserError, PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return Any


def document(jobs: Iterable[JobSpec], prefix: str = "") -> dict[str, Any]:
    """The document; `prefix` is where the API is mounted."""
    specs = sorted(jobs, key=lambda spec: spec.name)
    asked, schemas = _schemas(specs)
    submitted: dict[str, Any] = {"$ref": _REFS.format(model="JobRequest")}
    heard: list[dict[str, Any]] = [{"$ref": _REFS.format(model=name)} for name in ("JobEvent", "AppEvent")]
    if specs:
        for spec in specs:
            schemas[f"Submit.{spec.name}"] = _submission(spec, asked[spec.name, "validation"], schemas["JobRequest"])
            schemas[f"Succeeded.{spec.name}"] = _success(spec, asked[spec.name, "serialization"], schemas["JobEvent"])
        submitted = _one_of([f"Submit.{spec.name}" for spec in specs], "job")
        heard = [*({"$ref": _REFS.format(model=f"Succeeded.{spec.name}")} for spec in specs), *heard]
    schemas["EventItem"]["properties"]["event"] = {"anyOf": heard}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushsvc",
            "version": version("pushsvc"),
            "description": "Jobs, and their results pushed. docs/protocol.md says it in prose.",
        },
        "servers": [{"url": prefix or "/"}],
        "security": [{"bearer": []}],
        "paths": _paths(submitted),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    }


def _schemas(specs: Iterable[JobSpec]) -> tuple[Mapping[tuple[str, str], Any], dict[str, Any]]:
    """The schema of each job's parameters and result, and all that is referred to."""
    inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [(":request", "validation", TypeAdapter(JobRequest))]
    said: tuple[type[BaseModel], ...] = (*_SAID, Identity)
    inputs += [(f":{model.__name__}", "serialization", TypeAdapter(model)) for model in said]
    for spec in specs:
        inputs.append((spec.name, "validation", TypeAdapter(spec.params)))
        inputs.append((spec.name, "serialization", TypeAdapter(result_type(spec))))
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REFS)
    return {(str(name), str(mode)): schema for (name, mode), schema in found.items()}, dict(definitions["$defs"])


def _submission(spec: JobSpec, params: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    needs = any(field.is_required() for field in spec.params.model_fields.values())
    about = inspect.getdoc(spec.function)
    return {
        **request,
        "title": spec.name,
        **({"description": about} if about else {}),
        "properties": {**request["properties"], "job": {"const": spec.name, "type": "string"}, "params": params},
        "required": ["job", "params"] if needs else ["job"],
    }


def _success(spec: JobSpec, result: Any, event: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a job that succeeded. A result that is too large stands under `ref`, and has no `data`."""
    said = {"type": {"const": "job.succeeded", "type": "string"}, "name": {"const": spec.name, "type": "string"}}
    kept = {name: schema for name, schema in event["properties"].items() if name != "error"}
    return {
        **event,
        "title": f"{spec.name} succeeded",
        "description": f"What {spec.name} gave.",
        "properties": {**kept, **said, "data": result},
    }


def _one_of(names: Iterable[str], by: str) -> dict[str, Any]:
    refs = {name: _REFS.format(model=name) for name in names}
    return {
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": by, "mapping": {name.partition(".")[2]: ref for name, ref in refs.items()}},
    }


def _paths(submitted: Mapping[str, Any]) -> dict[str, Any]:
    job, identity, poll = (_answer(name) for name in ("JobView", "Identity", "PollAnswer"))
    key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255}}
    chosen = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    listening = [_query("channels"), _query("cursor"), _query("wait", "number"), _query("limit", "integer")]
    return {
        "/v1/jobs": {
            "post": {
                "summary": "Submit a job",
                "parameters": [key],
                "requestBody": {"required": True, "content": {JSON: {"schema": submitted}}},
                "responses": {"200": job, "202": job, "default": _problem()},
            }
        },
        "/v1/jobs/batch": {
            "post": {
                "summary": "Submit several jobs: all of them, or none",
                "parameters": [key],
                "requestBody": {"required": True, "content": {JSON: {"schema": _jobs(submitted)}}},
                "responses": {"202": _jobs_answer(job), "default": _problem()},
            }
        },
        "/v1/jobs/{id}": {
            "parameters": [chosen],
            "get": {"summary": "A job as it is now", "responses": {"200": job, "default": _problem()}},
        },
        "/v1/jobs/{id}/cancel": {
            "parameters": [chosen],
            "post": {
                "summary": "Cancel a job",
                "parameters": [_query("children", "boolean")],
                "responses": {"202": job, "default": _problem()},
            },
        },
        "/v1/events": {
            "get": {
                "summary": "What lies after a cursor, or comes within `wait` seconds",
                "parameters": listening,
                "responses": {"200": poll, "default": _problem()},
            }
        },
        "/v1/me": {"get": {"summary": "Who the caller is", "responses": {"200": identity, "default": _problem()}}},
    }


def _jobs(one: Mapping[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": 500}
    return {"type": "object", "properties": {"jobs": several}, "required": ["jobs"]}


def _jobs_answer(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "The jobs, in order", "content": {JSON: {"schema": _jobs(one["content"][JSON]["schema"])}}}


def _query(name: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind}}


def _answer(model: str) -> dict[str, Any]:
    return {"description": model, "content": {JSON: {"schema": {"$ref": _REFS.format(model=model)}}}}


def _problem() -> dict[str, Any]:
    schema = {"$ref": _REFS.format(model="Problem")}
    return {"description": "A problem (RFC 9457).", "content": {"application/problem+json": {"schema": schema}}}


def openapi_route(jobs: Iterable[JobSpec]) -> Route:
    """The route; the document is made when it is first asked for, when all jobs are there, and anew for each place
    where the API is found."""
    made: dict[str, bytes] = {}

    async def show(request: Request) -> Response:
        prefix = root(request)
        if prefix not in made:
            made.clear()
            made[prefix] = wire.dump(document(jobs, prefix))
        return Response(made[prefix], media_type=JSON)

    return Route("/openapi.json", show, methods=["GET"])
