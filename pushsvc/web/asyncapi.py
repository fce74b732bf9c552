"""`/asyncapi.json`: the socket and the stream as AsyncAPI 3.0 describes them, from the types of the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import wire
from ..wire import messages
from .reading import JSON, root

ANSWERS: Mapping[type[BaseModel], type[BaseModel]] = {
    wire.Hello: messages.Welcome,
    wire.Subscribe: messages.Joined,
    wire.Unsubscribe: messages.Done,
    wire.Ack: messages.Done,
    wire.Refresh: messages.Refreshed,
    wire.Submit: messages.JobView,
}
"""What a client may send, and the `ok` of its answer."""

PUSHED: Sequence[type[BaseModel]] = (
    messages.EventFrame,
    messages.ResetFrame,
    messages.ProgressFrame,
    messages.ByeFrame,
)
STREAMED: Mapping[str, type[BaseModel]] = {
    "event": messages.EventItem,
    "reset": messages.ResetItem,
    "progress": messages.ProgressItem,
}


def document(prefix: str = "") -> dict[str, Any]:
    """The document; `prefix` is where the API is mounted."""
    replies: Sequence[type[BaseModel]] = (messages.OkFrame, messages.ErrorFrame)
    models: tuple[type[BaseModel], ...] = (*ANSWERS, *ANSWERS.values(), *replies, *PUSHED, *STREAMED.values())
    refs, definitions = models_json_schema(
        [(model, "serialization" if model.__module__ == messages.__name__ else "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    schemas = {model: ref for (model, _), ref in refs.items()}
    frames = [_message(model, schemas[model]) for model in (*ANSWERS, *replies, *PUSHED)]
    stream = [_message(model, schemas[model], f"event: {name}") for name, model in STREAMED.items()]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "pushsvc",
            "version": version("pushsvc"),
            "description": "Results of jobs, pushed. docs/protocol.md says it in prose.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "socket": _channel(
                f"{prefix}/v1/ws", frames, f"WebSocket, subprotocol `{wire.SUBPROTOCOL}`, JSON text frames."
            ),
            "stream": _channel(f"{prefix}/v1/events/stream", stream, "Server-sent events; `id:` is the cursor."),
        },
        "operations": _operations(),
        "components": {
            "messages": {message["name"]: message for message in (*frames, *stream)},
            "schemas": definitions["$defs"],
        },
    }


def _message(model: type[BaseModel], schema: Any, summary: str | None = None) -> dict[str, Any]:
    return {
        "name": model.__name__,
        "summary": summary or (model.__doc__ or model.__name__).strip().splitlines()[0],
        "payload": schema,
    }


def _channel(address: str, found: Sequence[Mapping[str, Any]], description: str) -> dict[str, Any]:
    names = [message["name"] for message in found]
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _operations() -> dict[str, Any]:
    """From the server's side, as AsyncAPI counts: it receives what a client sends."""

    def on(channel: str, *models: type[BaseModel]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/{channel}/messages/{model.__name__}"} for model in models]

    socket, stream = {"$ref": "#/channels/socket"}, {"$ref": "#/channels/stream"}
    reply = {"channel": socket, "messages": on("socket", messages.OkFrame, messages.ErrorFrame)}
    asked = {
        model.__name__.lower(): {
            "action": "receive",
            "channel": socket,
            "messages": on("socket", model),
            "reply": reply,
            "description": f"The `ok` of its answer is a {answer.__name__}.",
        }
        for model, answer in ANSWERS.items()
    }
    pushed = {"action": "send", "channel": socket, "messages": on("socket", *PUSHED)}
    return asked | {
        "push": pushed,
        "stream": {"action": "send", "channel": stream, "messages": on("stream", *STREAMED.values())},
    }


def asyncapi_route() -> Route:
    """The route; the document is made when it is first asked for, anew for each place where the API is found."""
    made: dict[str, bytes] = {}

    async def show(request: Request) -> Response:
        prefix = root(request)
        if prefix not in made:
            made.clear()
            made[prefix] = wire.dump(document(prefix))
        return Response(made[prefix], media_type=JSON)

    return Route("/asyncapi.json", show, methods=["GET"])
