"""Whose keys and topics are whose in a Redis that several deployments share, or a deployment and a copy of it.

Pub/sub knows no database numbers, and a copied database has the same jobs and channels. So names here carry the
deployment's name together with what PostgreSQL calls itself and the database. These never stand in rows, which a dump
or a template would copy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cached_property

from .. import wire
from ..domain import Channel


class Scope:
    """The names of one deployment. `database` says which database on which server it has its rows in, as
    `Postgres.identity` does; it is asked when the first name is needed, and raises Unavailable before that is known.
    """

    def __init__(self, deployment: str, database: Callable[[], str]) -> None:
        self._deployment = deployment
        self._database = database

    @cached_property
    def id(self) -> str:
        """What all names have in common: 16 letters and digits, for whatever deployment and database."""
        names = wire.dump([self._deployment, self._database()])
        return base64.b32encode(hashlib.sha256(names).digest()[:10]).decode().lower()

    @cached_property
    def _prefix(self) -> str:
        return f"pushsvc:{self.id}:"

    def topic(self, channel: Channel) -> str:
        """The Redis channel of one of ours."""
        return f"{self._prefix}{channel.tenant}:{channel.name}"

    @property
    def cancels(self) -> str:
        """The topic of requests to stop a job."""
        return f"{self._prefix}cancel"

    def key(self, *parts: str) -> str:
        """A key of ours, apart from those of the queue."""
        return self._prefix + ":".join(parts)
