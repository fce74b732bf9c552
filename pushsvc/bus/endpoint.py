"""The one owner of how a Redis URL is understood: one server, a master behind Sentinels, or a Cluster.

`redis+sentinel://` is written as docket, Prefect and redis-sentinel-url write it, `redis+cluster://` as limits
does: hosts with commas between them, TLS with `rediss`. Every other option is redis-py's own, of the same name.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.exceptions import RedisError

from ..errors import SettingsError

Address = tuple[str, int]
"""Host and port; of a unix socket its path and 0."""

FORMS = (
    "redis://host:6379/0, rediss://host:6379/0 (TLS), unix:///path/to/socket, "
    "redis+sentinel://host1:26379,host2:26379/mymaster/0 or redis+cluster://host1:6379,host2:6379"
)
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_SENTINEL_OPTION = "sentinel_"
# What redis-py takes for the pool rather than for a connection of it.
_POOL_OPTIONS = ("max_connections", "timeout", "connection_class")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Redis is, and how its connections are made. Nothing of it is shown: there may be passwords."""

    kind: Literal["single", "sentinel", "cluster"] = field(repr=True)
    nodes: tuple[Address, ...] = field(repr=False)
    """The server itself, its Sentinels, or as many of the cluster's nodes as the URL names."""
    connection: type[Any] = field(repr=False)
    """redis-py's class of its connections."""
    options: Mapping[str, Any] = field(repr=False)
    """What a connection of that class takes, besides host and port."""
    pool: Mapping[str, Any] = field(repr=False)
    master: str = field(default="", repr=False)
    sentinels: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a connection to a Sentinel takes."""

    @classmethod
    def parse(cls, url: str, setting: str = "PUSHSVC_REDIS_URL") -> Endpoint:
        """Raises SettingsError, which names the setting and shows nothing of the URL, if it can't be one."""
        try:
            scheme, _, rest = url.strip().partition("://")
            transport, _, form = scheme.lower().partition("+")
            known = ("redis", "rediss") if form else ("redis", "rediss", "unix")
            if form not in ("", "sentinel", "cluster") or transport not in known:
                raise ValueError("its scheme is another")
            _check_encoding(rest)
            if not form:
                if transport != "unix":
                    _check_place(rest)
                return cls._single(url.strip())
            return cls._several(transport, "sentinel" if form == "sentinel" else "cluster", rest)
        except (ValueError, TypeError, RedisError, OSError) as error:
            raise SettingsError(f"{setting} is not a URL of Redis, such as {FORMS}: {_reason(error)}") from None

    @classmethod
    def _single(cls, url: str) -> Endpoint:
        connection, options, pool = _understood(url)
        if "path" in options:
            nodes = ((str(options["path"]), 0),)
        else:
            nodes = ((str(options.pop("host", "localhost")), int(options.pop("port", _PORTS["single"]))),)
        return cls("single", nodes, connection, options, pool)

    @classmethod
    def _several(cls, transport: str, kind: Literal["sentinel", "cluster"], rest: str) -> Endpoint:
        rest, _, query = rest.partition("?")
        login, _, rest = rest.rpartition("@")
        hosts, _, path = rest.partition("/")
        nodes = tuple(_address(host, _PORTS[kind]) for host in hosts.split(",") if host)
        if not nodes:
            raise ValueError("it names no host")
        parts = [unquote(part) for part in path.split("/") if part]
        master = parts.pop(0) if kind == "sentinel" and parts else ""
        if kind == "sentinel" and not master:
            raise ValueError("after the Sentinels' hosts comes the name of the master, as in /mymaster")
        database = parts.pop(0) if parts else "0"
        if parts or not database.isdecimal() or (kind == "cluster" and database != "0"):
            raise ValueError("a Cluster has only database 0" if kind == "cluster" else "the database is no number")
        pairs = parse_qsl(query)
        ours = urlencode([pair for pair in pairs if not pair[0].startswith(_SENTINEL_OPTION)])
        connection, options, pool = _understood(f"{transport}://{login and login + '@'}host/{database}?{ours}")
        options.pop("host")
        return cls(kind, nodes, connection, options, pool, master, _sentinels(pairs, connection, options))

    def tls(self) -> ssl.SSLContext | None:
        """As redis-py would use it. Raises OSError when a file that the URL names can't be read."""
        if not issubclass(self.connection, SSLConnection):
            return None
        return self.connection(**self.options).ssl_context.get()

    @property
    def login(self) -> tuple[str, ...]:
        """The arguments of AUTH; none where there is no password."""
        password, user = self.options.get("password"), self.options.get("username")
        if not password:
            return ()
        return (str(user), str(password)) if user else (str(password),)


def _check_encoding(rest: str) -> None:
    """Raises ValueError where a character of the password ends it, and what follows would be taken for a host."""
    before, _, query = rest.partition("?")
    place, _, path = before.partition("/")
    if "#" in rest:
        raise ValueError("a # in it has to be percent-encoded, as %23")
    if "@" in path and "@" not in place and place:
        raise ValueError("a / in the user or the password has to be percent-encoded, as %2F")
    if query and not all("=" in part for part in query.split("&")):
        raise ValueError("a ? in the user or the password has to be percent-encoded, as %3F")


def _check_place(rest: str) -> None:
    """Raises ValueError where redis-py would go to another server, or another database, without a word."""
    place, _, path = rest.partition("?")[0].partition("/")
    _, at, host = place.rpartition("@")
    if at and not host:
        raise ValueError("it names no host")
    if ":" in host.rpartition("]")[2] and not host.rpartition(":")[2]:
        raise ValueError("after the host's colon comes its port")
    if path and not (path.isascii() and path.isdecimal()):
        raise ValueError("what follows the host is the number of a database, as /0")


# What our own reading of answers goes by.
_FIXED = {"decode_responses": False, "encoding": "utf-8", "encoding_errors": "strict", "protocol": 2}


def _take_fixed(options: dict[str, Any]) -> None:
    for name, value in _FIXED.items():
        # As text: redis-py takes "false" for true.
        if str(options.pop(name, value)).lower() != str(value).lower():
            raise ValueError(f"{name} is not to be set: pushsvc reads Redis' answers as they are; take it out")


def _understood(url: str) -> tuple[type[Any], dict[str, Any], dict[str, Any]]:
    """The class of its connections, what they take, and what their pool takes."""
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        # What urllib and redis-py say may hold a piece of the URL.
        option = re.match("Invalid value for '[a-z_]{1,40}'|Port out of range 0-65535", str(error))
        port = "ort could not be cast" in str(error)
        raise ValueError(option[0] if option else "its port is no number" if port else "it can't be read") from None
    _take_fixed(options)
    pool = {name: options.pop(name) for name in _POOL_OPTIONS if name in options}
    connection: type[Any] = pool.pop("connection_class", Connection)
    if issubclass(connection, SSLConnection) and options.get("ssl_cert_reqs") != "none":
        # redis-py 5 does not look at whose certificate it is; 6 does.
        options.setdefault("ssl_check_hostname", True)
    connection(**options)  # whatever it does not take is found now
    return connection, options, pool


def _sentinels(pairs: list[tuple[str, str]], connection: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """TLS as for the master; a password only if it has one of its own."""
    taken = {name: value for name, value in options.items() if name.startswith("ssl_")}
    for name, value in pairs:
        if name.startswith(_SENTINEL_OPTION):
            name = name.removeprefix(_SENTINEL_OPTION)
            if name not in ("username", "password"):
                raise ValueError("of the Sentinels' options there are sentinel_username and sentinel_password")
            taken[name] = value
    connection(**taken)
    return taken


def _address(text: str, default: int) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    host = unquote(host).removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("a host is written host:port")
    return host, int(port)


def _reason(error: Exception) -> str:
    """What the error says, unless that could be a piece of the URL."""
    text = str(error)
    if isinstance(error, TypeError):
        return "redis-py does not know one of its options"
    return text if isinstance(error, ValueError) else type(error).__name__
