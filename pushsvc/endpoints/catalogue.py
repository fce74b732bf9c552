"""The endpoints of a service by the names of their jobs, and every place where a mark stands."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol

from pydantic import BaseModel

from ..domain import Json
from ..jobs import JobContext, JobSpec, Registry
from .options import EndpointOptions

Replay = Callable[[JobContext, EndpointOptions], Awaitable[Json]]


class Place(Protocol):
    """Where a mark stands."""

    name: str | None


class RecordReference(BaseModel, extra="forbid"):
    """The parameters of an endpoint's job: the record that it is to replay, which bears the id of the job."""

    record: str


class Catalogue:
    """Enrols endpoints as jobs. `replay` runs one; it is asked for when it runs, in a worker."""

    def __init__(self, registry: Registry, replay: Replay) -> None:
        self._registry = registry
        self._replay = replay
        self.options: dict[str, EndpointOptions] = {}
        self.places: list[Place] = []

    def placed(self, place: Place) -> None:
        self.places.append(place)

    def enrol(self, name: str, options: EndpointOptions, where: str) -> str:
        """Make the endpoint a job of this name, or, where that is taken, of one that also says where it is."""
        chosen = self._free(_fit(name), _fit(where))

        async def replay(ctx: JobContext, record: str) -> Json:
            return await self._replay(ctx, options)

        self._registry.add(
            JobSpec(
                name=chosen,
                function=replay,
                timeout=options.timeout,
                retention=options.retention,
                max_attempts=1,
                coalesce=options.coalesce,
                params=RecordReference,
                context="ctx",
                queue=options.queue,
                priority=options.priority,
                recorded=True,
            )
        )
        self.options[chosen] = options
        return chosen

    def _free(self, name: str, where: str) -> str:
        taken = {spec.name for spec in self._registry}
        if name in taken and where:
            name = f"{name}.{where}"[:100]
        number, chosen = 1, name
        while chosen in self.options:
            number += 1
            chosen = f"{name[:95]}.{number}"
        return chosen


def _fit(text: str) -> str:
    """The text as a job's name may be."""
    fit = re.sub(r"[^A-Za-z0-9_.-]+", "_", text.strip("/"))[:80].strip("_")
    return fit if not fit or re.match(r"[A-Za-z_]", fit) else f"_{fit}"
