"""PostgreSQL's connection strings: each form that providers give is understood, or refused in one sentence."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pushsvc.errors import SettingsError
from pushsvc.queries import Database, DatabasePool
from pushsvc.store import Conninfo, Postgres, migrate

FILE = __file__
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
PASSWORD = "p@ss/w?rd#%+ ü'\\"
ENCODED = quote(PASSWORD, safe="")

H = {"host": ["h"], "port": [5432], "user": "u", "password": "p", "database": "d"}

PLACES: list[tuple[str, dict[str, Any]]] = [
    ("postgresql://u:p@h/d", H),
    ("postgres://u:p@h/d", H),
    ("postgresql+asyncpg://h/d", {"host": ["h"], "port": [5432], "database": "d"}),
    ("POSTGRES://h/d", {"host": ["h"], "port": [5432], "database": "d"}),
    ("  postgresql://h/d\n", {"host": ["h"], "port": [5432], "database": "d"}),
    ("postgresql://", {}),
    ("postgresql:///d", {"database": "d"}),
    ("postgresql://u@/d", {"user": "u", "database": "d"}),
    ("postgresql://:5433/d", {"port": 5433, "database": "d"}),
    ("postgresql://h:5433", {"host": ["h"], "port": [5433]}),
    ("postgresql://h:/d", {"host": ["h"], "port": [5432], "database": "d"}),
    ("postgresql://[::1]:5433/d", {"host": ["::1"], "port": [5433], "database": "d"}),
    ("postgresql://[fe80::1%25eth0]/d", {"host": ["fe80::1%eth0"], "port": [5432], "database": "d"}),
    ("postgresql://a:1,b:2,[::1]/d", {"host": ["a", "b", "::1"], "port": [1, 2, 5432], "database": "d"}),
    ("postgresql://a,b/d", {"host": ["a", "b"], "port": [5432, 5432], "database": "d"}),
    ("postgresql://%2Fvar%2Frun/d", {"host": ["/var/run"], "port": [5432], "database": "d"}),
    ("postgresql:///d?host=/var/run&port=5433", {"host": ["/var/run"], "port": [5433], "database": "d"}),
    ("postgresql:///d?host=a,b&port=1,2", {"host": ["a", "b"], "port": [1, 2], "database": "d"}),
    ("postgresql:///d?host=a,b&port=6000", {"host": ["a", "b"], "port": [6000, 6000], "database": "d"}),
    ("postgresql://h/?dbname=d&user=u&password=p", H),
    ("postgresql://h/?database=d", {"host": ["h"], "port": [5432], "database": "d"}),
    ("postgresql://u:p@ss@h/d", {"host": ["h"], "port": [5432], "user": "u", "password": "p@ss", "database": "d"}),
    ("postgresql://u:a:b@h/d", {"host": ["h"], "port": [5432], "user": "u", "password": "a:b", "database": "d"}),
    ("postgresql://u:p#1@h/d", {"host": ["h"], "port": [5432], "user": "u", "password": "p#1", "database": "d"}),
    ("postgresql://u:a+b@h/d%20e", {**H, "password": "a+b", "database": "d e"}),
    (f"postgresql://u:{ENCODED}@h/d", {**H, "password": PASSWORD}),
    (f"postgresql://u@h/d?password={ENCODED}", {**H, "password": PASSWORD}),
    ("postgresql://proj.user:p@h.example:6543/d", {**H, "host": ["h.example"], "port": [6543], "user": "proj.user"}),
    ("host=h dbname=d user=u password=p", H),
    (
        "host = 'h'  port = 5433\ndbname='a b' password='it\\'s \\\\'",
        {"host": ["h"], "port": [5433], "password": "it's \\", "database": "a b"},
    ),
    (r"host=h password=a\ b user=''", {"host": ["h"], "port": [5432], "password": "a b"}),
    ("hostaddr=127.0.0.1 dbname=d", {"host": ["127.0.0.1"], "port": [5432], "database": "d"}),
]  # fmt: skip

ACCEPTED = [
    *(f"sslmode={mode}" for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")),
    f"sslrootcert={FILE}",
    "sslmode=verify-full&sslrootcert=system",
    f"sslcert={FILE}&sslkey={FILE}&sslpassword=x",
    f"sslcrl={FILE}",
    "sslnegotiation=direct&sslmode=require",
    "ssl_min_protocol_version=TLSv1.3",
    "ssl=require",
    "ssl=true",
    "sslcompression=0",
    "sslsni=1",
    "application_name=web",
    "fallback_application_name=web",
    "options=-csearch_path%3Dapp",
    "options=project%3Dquiet-moon-123",
    "connect_timeout=10",
    "connect_timeout=0",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5",
    "keepalives=0",
    "tcp_user_timeout=20000",
    "channel_binding=prefer",
    "gssencmode=disable",
    *(f"target_session_attrs={mode}" for mode in ("any", "read-write", "primary", "standby", "prefer-standby")),
    "client_encoding=UTF8",
    f"passfile={FILE}",
    "service=x",
    "load_balance_hosts=disable",
]

REFUSED = [
    ("mysql://h/d", "not a URL of PostgreSQL"),
    ("postgresql+psycopg2://h/d", "postgresql+psycopg2:// names another driver; write postgresql://"),
    ("postgresql+psycopg://h/d", "names another driver"),
    ("jdbc:postgresql://h/d", "not a URL of PostgreSQL"),
    ("", "it is empty"),
    ("h/d", "neither a URL nor parameters"),
    ("host=h nonsense", "neither a URL nor parameters"),
    ("host='h", "neither a URL nor parameters"),
    ("postgresql://h/d?sslmode=on", "sslmode is one of disable"),
    ("postgresql://h/d?sslmod=require", "sslmod can't be used: did you mean sslmode?"),
    ("postgresql://h/d?channel_binding=require", "asyncpg can't bind channels"),
    ("postgresql://h/d?gssencmode=require", "gssencmode can't be used like this"),
    ("postgresql://h/d?require_auth=scram-sha-256", "require_auth can't be used like this"),
    ("postgresql://h/d?replication=database", "replication can't be used"),
    ("postgresql://h/d?client_encoding=latin1", "client_encoding can't be used"),
    ("postgresql://a,b/d?load_balance_hosts=random", "hosts are tried in their order"),
    ("postgresql://u@h/d?password=a&hunter2=b", "a parameter that is none of libpq's"),
    ("postgresql://h/d?pgbouncer=true", "pgbouncer can't be used: take it out"),
    ("postgresql://h/d?connection_limit=1", "PUSHSVC_STORE_CONNECTIONS"),
    ("postgresql://h/d?schema=app", "search_path"),
    ("postgresql://h/d?statement_cache_size=0", "statement_cache_size can't be used"),
    ("postgresql://h/d?sslrootcert=system&sslmode=require", "goes with sslmode=verify-full only"),
    ("postgresql://h/d?connect_timeout=soon", "connect_timeout is a whole number"),
    ("postgresql://h/d?keepalives_idle=x", "keepalives_idle is a whole number"),
    ("postgresql://h/d?host=x&hostaddr=127.0.0.1&sslmode=verify-full", "hostaddr can't be used beside host"),
    ("postgresql://h/d?sslrootcert=/no/such/file", "sslrootcert names a file that is not there"),
    ("postgresql://h:70000/d", "ports are 1 to 65535"),
    ("postgresql://h:0/d", "ports are 1 to 65535"),
    ("postgresql://h:abc/d", "the port is not a number"),
    ("postgresql://a,,b/d", "a host between two commas is empty"),
    ("postgresql:///d?host=a,b,c&port=1,2", "there are 3 hosts and 2 ports"),
    ("postgresql://[::1/d", "in brackets"),
    ("postgresql://u:hunter2/x@h/d", "write it as %2F"),
    ("postgresql://u:hunter2?x@h/d", "write it as %3F"),
    ("postgresql://u:hunter2%@h/d", "write a % itself as %25"),
    ("postgresql://u:%ffhunter2@h/d", "not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "place"), PLACES, ids=[url.replace(ENCODED, "…") for url, _ in PLACES])
def test_each_way_to_write_a_place_is_understood(url: str, place: dict[str, Any]) -> None:
    assert Conninfo.parse(url).place == place


@pytest.mark.parametrize("parameters", ACCEPTED)
def test_a_parameter_of_libpq_is_taken_in_a_url_and_in_pairs(parameters: str) -> None:
    in_url = Conninfo.parse(f"postgresql://h/d?{parameters}")
    pairs = " ".join(part.replace("%3D", "=") for part in parameters.split("&"))
    assert Conninfo.parse(f"host=h dbname=d {pairs}") == in_url


@pytest.mark.parametrize(("url", "sentence"), REFUSED)
def test_what_can_not_be_used_is_refused_in_a_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Conninfo.parse(url, "PUSHSVC_DATABASE_URL")
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("PUSHSVC_DATABASE_URL: ")
    assert "hunter2" not in str(refused.value)


def test_a_password_is_in_no_repr() -> None:
    assert "hunter2" not in repr(Conninfo.parse("postgresql://u:hunter2@h/d?sslpassword=hunter2"))


def test_of_several_hosts_the_store_takes_the_one_that_can_be_written_to() -> None:
    assert "read-write" in Conninfo.parse("postgresql://a,b/d", writes=True).dsn
    assert "read-write" not in Conninfo.parse("postgresql://a/d", writes=True).dsn
    assert "read-write" not in Conninfo.parse("postgresql://a,b/d?target_session_attrs=any", writes=True).dsn


# On a real server ---------------------------------------------------------------------------------


class TlsFront:
    """PostgreSQL's server by TCP, with TLS for who asks for it (the embedded one is built without)."""

    def __init__(self, directory: Path, socket_path: str) -> None:
        self.directory = directory
        self.host, self.port = "127.0.0.1", 0
        self.encrypted: list[bool] = []
        self._socket_path = socket_path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        encrypted = first == SSL_REQUEST
        if encrypted:
            writer.write(b"S")
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.directory / "server.crt", self.directory / "server.key")
            try:
                await writer.start_tls(context)
            except (ssl.SSLError, ConnectionError):
                return
        self.encrypted.append(encrypted)
        behind, ahead = await asyncio.open_unix_connection(self._socket_path)
        ahead.write(b"" if encrypted else first)
        await asyncio.gather(_pipe(reader, ahead), _pipe(behind, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest_asyncio.fixture
async def front(postgres_url: str, tmp_path: Path) -> AsyncIterator[TlsFront]:
    place = Conninfo.parse(postgres_url).place
    made = TlsFront(tmp_path, f"{place['host'][0]}/.s.PGSQL.{place['port'][0]}")
    _certify(tmp_path, made.host)
    server = await asyncio.start_server(made.serve, made.host, 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


def _certify(directory: Path, host: str) -> None:
    """A key and a certificate of its own for this host, and another one that nobody uses."""
    for name in ("server", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        (directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / f"{name}.key").write_bytes(pem)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("sslmode=disable", False),
        ("sslmode=allow", False),
        ("sslmode=prefer", True),
        ("", True),
        ("sslmode=require", True),
        ("ssl=require", True),
        ("sslmode=verify-ca&sslrootcert={dir}/server.crt", True),
        ("sslmode=verify-full&sslrootcert={dir}/server.crt", True),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", True),
        ("sslmode=verify-ca&sslrootcert={dir}/other.crt", "certificate"),
        ("sslrootcert=system", "certificate"),
    ],
)
async def test_each_level_of_tls_is_what_the_server_sees(
    front: TlsFront, parameters: str, expected: bool | str
) -> None:
    given = parameters.format(dir=front.directory)
    conninfo = Conninfo.parse(f"postgresql://postgres:{ENCODED}@{front.host}:{front.port}/postgres?{given}")
    if isinstance(expected, str):
        with pytest.raises((SettingsError, ssl.SSLError), match=f"(?i){expected}"):
            await conninfo.connect(timeout=5)
        return
    connection = await conninfo.connect(timeout=5)
    await connection.close()
    assert front.encrypted == [expected]


async def test_one_url_serves_the_store_the_migrations_and_the_jobs_alike(front: TlsFront) -> None:
    url = (
        f"postgres://postgres:{ENCODED}@127.0.0.1:1,{front.host}:{front.port}/postgres?sslmode=require"
        "&application_name=web&options=-cstatement_timeout%3D4321&connect_timeout=5&target_session_attrs=read-write"
    )
    async with Postgres(url) as store:
        rows = await store.fetch("SELECT current_setting('application_name') AS name")
    pool = DatabasePool(url)
    try:
        async with Database(pool, owner="job-1") as db:
            [asked] = await db.async_find_by_sql(
                "SELECT current_setting('application_name') AS name, current_setting('statement_timeout') AS bound"
            )
    finally:
        await pool.close()
    await migrate(url)
    assert rows[0]["name"] == asked.name == "web"
    assert asked.bound == "4321ms"
    assert front.encrypted == [True] * len(front.encrypted)


async def test_keepalives_reach_the_socket(front: TlsFront) -> None:
    url = f"postgresql://postgres@{front.host}:{front.port}/postgres?keepalives_idle=77&sslmode=disable"
    connection: Any = await Conninfo.parse(url).connect()
    try:
        where = connection._transport.get_extra_info("socket")
        assert where.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
        assert where.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    finally:
        await connection.close()
