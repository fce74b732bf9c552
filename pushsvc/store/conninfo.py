"""The one owner of how a PostgreSQL URL is understood, for asyncpg, SQLAlchemy and Alembic alike.

It reads libpq's connection strings (PostgreSQL's manual, 32.1.1): URIs and `host=… dbname=…`. asyncpg itself takes
most parameters; the others are met here, or refused in one sentence that names them. Nothing of a value is ever in
a message: it may be a password.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote, urlencode

import asyncpg

from ..errors import SettingsError
from .pooler import DriverConnection, PoolerMode, is_pooled, mistaken_parameter, refused_parameter

FORMS = "postgresql://user:password@host:5432/database, or host=… port=5432 dbname=… user=… password=…"

# asyncpg understands these in a DSN.
_DRIVER = (
    "gsslib",
    "krbsrvname",
    "passfile",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
)
_PLACE = ("host", "hostaddr", "port", "dbname", "user", "password", "connect_timeout")
# Parameters of PostgreSQL's startup message.
_SERVER = ("application_name", "options")
_KEEPALIVE = {
    "keepalives_idle": getattr(socket, "TCP_KEEPIDLE", None),
    "keepalives_interval": getattr(socket, "TCP_KEEPINTVL", None),
    "keepalives_count": getattr(socket, "TCP_KEEPCNT", None),
    "tcp_user_timeout": getattr(socket, "TCP_USER_TIMEOUT", None),
}
# What asyncpg can't do, and the values with which that changes nothing.
_ONLY: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "utf-8", "unicode"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "max_protocol_version": ("3.0", "latest"),
    "min_protocol_version": ("3.0",),
    "replication": ("0", "false", "off", "no"),
    "require_auth": (),
    "requirepeer": (),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslcrldir": (),
    "sslsni": ("1",),
}
_INSTEAD = {
    "channel_binding": "asyncpg can't bind channels; take it out, and say sslmode=verify-full for as much",
    "load_balance_hosts": "hosts are tried in their order",
    "connection_limit": "PUSHSVC_STORE_CONNECTIONS, PUSHSVC_MAX_JOBS and PUSHSVC_EXECUTOR_CONCURRENCY bound them",
    "pgbouncer": "take it out",
    "prepared_statement_cache_size": "take it out, it is pushsvc's to choose",
    "schema": "write options=-csearch_path%3Dname, or set it with ALTER ROLE … SET search_path",
    "sslaccept": "write sslmode",
    "statement_cache_size": "take it out, it is pushsvc's to choose",
}
_KNOWN = (*_DRIVER, *_PLACE, *_SERVER, "fallback_application_name", "keepalives", *_KEEPALIVE, *_ONLY)
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PAIR = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Conninfo:
    """Where a database is, and how to connect to it."""

    place: Mapping[str, Any]
    """asyncpg's arguments: host, port, user, password, database."""
    dsn: str
    """What asyncpg takes as a DSN only, as one; no place is in it."""
    settings: Mapping[str, str]
    timeout: float | None
    keepalives: Mapping[int, int] = field(default_factory=dict)
    """Options of the TCP socket, in `setsockopt`'s numbers."""
    keepalive: bool = True
    pooler: PoolerMode = "auto"
    refused: set[str] = field(default_factory=set)
    """Startup parameters that a pooler did not take: it is not asked again."""

    def __repr__(self) -> str:
        return "<Conninfo>"

    @classmethod
    def parse(
        cls, text: str, setting: str = "the database URL", *, writes: bool = False, pooler: PoolerMode = "auto"
    ) -> Conninfo:
        """`writes`: of several hosts, take the one that takes changes, unless `target_session_attrs` says another.

        Raises SettingsError, which names the setting and the parameter, if it can't be used as it stands.
        """
        try:
            given = _checked(_uri(text.strip()) if "://" in text else _pairs(text.strip()))
            if writes and "," in given.get("hostaddr", given.get("host", "")):
                given.setdefault("target_session_attrs", "read-write")
            return replace(_understood(given), pooler=pooler)
        except ValueError as error:
            raise SettingsError(f"{setting}: {error}") from None

    async def connect(
        self,
        *,
        session: str | None = None,
        within: float | None = None,
        statement_cache_size: int = 100,
        **options: Any,
    ) -> DriverConnection:
        """A connection; `options` are `asyncpg.connect`'s, and give way to what the URL says of them.

        `session`, commands, is run in the session, with `{direct}` in it standing for whether it is ours alone: where
        it is not, they must do nothing. `within` is how many seconds that may take: a pooler may let us wait. Where
        the connection is `pooled`, `server_settings` are not in force, and no statement is kept.
        Raises OSError, TimeoutError or asyncpg's errors; SettingsError where files or values of the URL that only
        now are looked at, such as certificates, are of no use.
        """
        connection = await self._opened(options)
        try:
            if session is not None and self.pooler != "transaction":
                ours = "true" if self.pooler == "session" else f"pg_backend_pid() = {connection.get_server_pid()}"
                await connection.execute(session.format(direct=ours), timeout=within)
            connection.pooled = await is_pooled(connection, self.pooler, within)
            if not connection.pooled:
                connection.keep_statements(statement_cache_size)
        except BaseException:
            connection.terminate()
            raise
        self._keep_alive(connection)
        return connection

    async def _opened(self, options: dict[str, Any]) -> DriverConnection:
        asked = options.pop("server_settings", {})
        if self.timeout is not None:
            options["timeout"] = self.timeout
        options.setdefault("connection_class", DriverConnection)
        few = {name: value for name, value in asked.items() if name in _SERVER}
        try:
            try:
                return await self._connected(few if self.refused or self.pooler != "auto" else asked, options)
            except asyncpg.ProtocolViolationError as error:
                if (refused := refused_parameter(error)) is None:
                    raise
                if refused in self.settings:
                    raise mistaken_parameter(refused) from None
                self.refused.add(refused)
            return await self._connected(few, options)
        except asyncpg.ClientConfigurationError as error:
            raise SettingsError(f"the database URL can't be used: {error}") from None
        except ssl.SSLError as error:
            raise SettingsError(f"the database URL's certificates can't be used: {error.reason}") from None

    async def _connected(self, server_settings: Mapping[str, str], options: Mapping[str, Any]) -> DriverConnection:
        connection: DriverConnection = await asyncpg.connect(
            self.dsn or None,
            **self._secured(),
            **self.place,
            server_settings={**server_settings, **self.settings},
            # Kept only once it is known that they may be.
            statement_cache_size=0,
            **options,
        )
        return connection

    def _secured(self) -> dict[str, Any]:
        """libpq's `sslrootcert=system`: the authorities of this machine, and always `verify-full`."""
        if "sslrootcert=system" not in self.dsn:
            return {}
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return {"ssl": context}

    def _keep_alive(self, connection: asyncpg.Connection[Any]) -> None:
        # asyncpg has no public way to its socket; without it the system's own settings hold.
        transport = getattr(connection, "_transport", None)
        where = None if transport is None else transport.get_extra_info("socket")
        if where is None or where.family == getattr(socket, "AF_UNIX", None):
            return
        with suppress(OSError):
            where.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(self.keepalive))
            for option, value in self.keepalives.items():
                where.setsockopt(socket.IPPROTO_TCP, option, value)


# Reading ------------------------------------------------------------------------------------------


def _uri(text: str) -> dict[str, str]:
    """The parameters of a URI. Raises ValueError."""
    scheme, _, rest = text.partition("://")
    name, _, driver = scheme.lower().partition("+")
    if name not in ("postgresql", "postgres"):
        raise ValueError(f"it is not a URL of PostgreSQL, such as {FORMS}")
    if driver not in ("", "asyncpg"):
        raise ValueError(f"{name}+{driver[:20]}:// names another driver; write {name}://")
    rest, _, query = rest.partition("?")
    # The last @: one in a password that should have been encoded does no harm.
    place, at, path = _split_path(rest)
    login, _, hosts = place.rpartition("@") if at else ("", "", place)
    given = _hosts(hosts)
    user, _, password = login.partition(":")
    for parameter, value in (("user", user), ("password", password), ("dbname", path)):
        if value:
            given[parameter] = _decoded(value)
    for part in query.split("&") if query else ():
        parameter, equals, value = part.partition("=")
        if not equals:
            raise ValueError("a parameter after ? has no value; if the password holds a ?, write it as %3F")
        given[_decoded(parameter)] = _decoded(value)
    return given


def _split_path(rest: str) -> tuple[str, bool, str]:
    """Login and hosts, whether there is a login, and the database."""
    before, slash, path = rest.partition("/")
    if slash and "@" in path and "@" not in before:
        raise ValueError("the user or the password holds a /; write it as %2F")
    return before, "@" in before, path


def _hosts(text: str) -> dict[str, str]:
    names: list[str] = []
    ports: list[str] = []
    for part in text.split(",") if text else ():
        if part.startswith("["):
            host, bracket, rest = part[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError("an IPv6 address is written in brackets, as [::1]:5432")
            port = rest[1:]
        else:
            host, _, port = part.partition(":")
        names.append(_decoded(host))
        ports.append(port)
    given: dict[str, str] = {}
    if any(names):
        given["host"] = ",".join(names)
    if any(ports):
        given["port"] = ",".join(ports)
    return given


def _pairs(text: str) -> dict[str, str]:
    """The parameters of `host=… dbname=…`. Raises ValueError."""
    given: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError(f"it is neither a URL nor parameters; write {FORMS}")
        value = match[3] if match[2] is None else match[2]
        given[match[1]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = match.end()
    if not given:
        raise ValueError(f"it is empty; write {FORMS}")
    return given


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("a % is not followed by two hexadecimal digits; write a % itself as %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what is percent-encoded is not UTF-8") from None


# Understanding ------------------------------------------------------------------------------------


def _checked(given: Mapping[str, str]) -> dict[str, str]:
    """The parameters under libpq's names, without those that say nothing. Raises ValueError."""
    renamed = {"database": "dbname", "ssl": "sslmode"}
    checked = {renamed.get(name, name): value for name, value in given.items() if value != ""}
    if "ssl" in given:
        checked["sslmode"] = {"true": "require", "1": "require", "false": "disable"}.get(given["ssl"], given["ssl"])
    for name, value in checked.items():
        if name not in _KNOWN:
            raise ValueError(_not_known(name))
        if name in _ONLY and value.lower() not in _ONLY[name]:
            allowed = " or ".join(f"{name}={each}" for each in _ONLY[name])
            hint = _INSTEAD.get(name, "asyncpg can't do that; take it out")
            raise ValueError(
                f"{name} can't be used like this: {hint}" + (f" ({allowed} would do)" if allowed else "")
            )
    if (mode := checked.get("sslmode")) is not None and mode not in _SSLMODES:
        raise ValueError(f"sslmode is one of {', '.join(_SSLMODES)}")
    _check_system_authorities(checked)
    _check_files(checked)
    return checked


def _not_known(name: str) -> str:
    """The name itself stands in it only where it can't be a piece of a password that should have been encoded."""
    near = difflib.get_close_matches(name, _KNOWN, n=1)
    if name in _INSTEAD or near:
        return f"{name} can't be used: {_INSTEAD.get(name) or f'did you mean {near[0]}?'}"
    return "it has a parameter that is none of libpq's; if the password holds a & or a ?, percent-encode it"


def _check_files(given: Mapping[str, str]) -> None:
    """A file that is missing would look like a server that is away, at each connect."""
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"):
        path = given.get(name)
        if path is not None and (name, path) != ("sslrootcert", "system") and not os.access(path, os.R_OK):
            raise ValueError(f"{name} names a file that is not there, or may not be read")


def _check_system_authorities(given: Mapping[str, str]) -> None:
    if given.get("sslrootcert") != "system":
        return
    if given.get("sslmode", "verify-full") != "verify-full":
        raise ValueError("sslrootcert=system goes with sslmode=verify-full only, as in libpq")
    if extra := sorted({"sslcert", "sslkey", "sslcrl", "sslpassword"} & given.keys()):
        raise ValueError(f"{extra[0]} can't be used beside sslrootcert=system; name the authorities' file instead")


def _understood(given: Mapping[str, str]) -> Conninfo:
    settings = {name: given[name] for name in _SERVER if name in given}
    if "fallback_application_name" in given:
        settings.setdefault("application_name", given["fallback_application_name"])
    timeout = _whole(given, "connect_timeout")
    # libpq: 0 waits for ever, 1 is taken for 2.
    seconds = None if timeout is None else 86400.0 if timeout <= 0 else max(timeout, 2.0)
    keepalives = {
        option: value
        for name, option in _KEEPALIVE.items()
        if option is not None and (value := _whole(given, name)) is not None and value > 0
    }
    return Conninfo(
        place=_place(given),
        dsn=_dsn({name: given[name] for name in _DRIVER if name in given}),
        settings=settings,
        timeout=seconds,
        keepalives=keepalives,
        keepalive=_whole(given, "keepalives") != 0,
    )


def _place(given: Mapping[str, str]) -> dict[str, Any]:
    place: dict[str, Any] = {}
    hosts = given.get("host", "")
    if "hostaddr" in given:
        if hosts and given.get("sslmode") == "verify-full":
            raise ValueError("hostaddr can't be used beside host with sslmode=verify-full: asyncpg knows one name")
        hosts = given["hostaddr"]
    names = hosts.split(",") if hosts else []
    if not all(names):
        raise ValueError("a host between two commas is empty")
    ports = [_port(port) for port in given["port"].split(",")] if "port" in given else []
    if len(ports) > 1 and len(ports) != len(names):
        raise ValueError(f"there are {len(names)} hosts and {len(ports)} ports")
    if names:
        place["host"] = names
        place["port"] = ports if len(ports) == len(names) else (ports or [5432]) * len(names)
    elif ports:
        place["port"] = ports[0]
    for name, argument in (("user", "user"), ("password", "password"), ("dbname", "database")):
        if name in given:
            place[argument] = given[name]
    return place


def _port(text: str) -> int:
    if not text:
        return 5432
    if not text.isdecimal() or not text.isascii():
        raise ValueError("the port is not a number; if user or password hold / ? # : or @, percent-encode them")
    if not 0 < int(text) < 65536:
        raise ValueError(f"there is no port {int(text)}; ports are 1 to 65535")
    return int(text)


def _whole(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text):
        raise ValueError(f"{name} is a whole number")
    return int(text)


def _dsn(parameters: Mapping[str, str]) -> str:
    """As asyncpg parses it: a space is %20, since it takes + for one."""
    return f"postgresql:///?{urlencode(parameters, quote_via=quote)}" if parameters else ""
