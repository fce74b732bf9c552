"""How a Redis URL is understood: one server, Sentinels, a Cluster; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from pushsvc.bus import Subscriber, connect, connect_bus
from pushsvc.bus.endpoint import Endpoint
from pushsvc.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "connection"),
    [
        ("redis://host", "single", [("host", 6379)], Connection),
        ("rediss://host:7000/2", "single", [("host", 7000)], SSLConnection),
        ("redis://[::1]:7000", "single", [("::1", 7000)], Connection),
        ("unix:///run/redis.sock?db=3", "single", [("/run/redis.sock", 0)], UnixDomainSocketConnection),
        ("redis+sentinel://a,b:1/m", "sentinel", [("a", 26379), ("b", 1)], Connection),
        ("redis+sentinel://[::1]:2,[::2]/m", "sentinel", [("::1", 2), ("::2", 26379)], Connection),
        ("rediss+sentinel://me:x@a/m/3", "sentinel", [("a", 26379)], SSLConnection),
        ("redis+cluster://a,b:7001", "cluster", [("a", 6379), ("b", 7001)], Connection),
        ("REDISS+CLUSTER://a:1/0", "cluster", [("a", 1)], SSLConnection),
        (" redis://host/ ", "single", [("host", 6379)], Connection),
        ("redis://host/?db=3&client_name=web", "single", [("host", 6379)], Connection),
        ("redis://:p%40ss%2Fw%3F%23@host/7", "single", [("host", 6379)], Connection),
        ("redis://me:p@ss@host/7", "single", [("host", 6379)], Connection),
        ("redis://host?password=p@ss", "single", [("host", 6379)], Connection),
        ("redis://host?decode_responses=false&protocol=2", "single", [("host", 6379)], Connection),
        (
            "redis://default:x@eu1-quick-moon-3.example:33079",
            "single",
            [("eu1-quick-moon-3.example", 33079)],
            Connection,
        ),
        ("rediss://default:x@h.example:6380/0?ssl_cert_reqs=none", "single", [("h.example", 6380)], SSLConnection),
    ],
)
def test_the_forms_of_a_url(url: str, kind: str, nodes: list[tuple[str, int]], connection: type[Any]) -> None:
    found = Endpoint.parse(url)
    assert (found.kind, list(found.nodes), found.connection) == (kind, nodes, connection)
    assert "host" not in found.options


def test_login_database_and_master_are_taken_from_where_they_stand() -> None:
    found = Endpoint.parse("redis+sentinel://me:p%40ss@a:1,b:2/my%2Fmaster/3?socket_timeout=1.5&max_connections=7")
    assert (found.master, found.login) == ("my/master", ("me", "p@ss"))
    assert (found.options["db"], found.options["socket_timeout"]) == (3, 1.5)
    assert found.pool == {"max_connections": 7}
    assert found.sentinels == {}, "what is the servers' password is not the Sentinels'"
    assert Endpoint.parse("redis://:only@host").login == ("only",)
    assert Endpoint.parse("redis://host").login == ()


def test_sentinels_have_a_login_of_their_own_and_the_servers_tls() -> None:
    found = Endpoint.parse(
        "rediss+sentinel://:a@h/m?sentinel_username=s&sentinel_password=p%26w&ssl_cert_reqs=none&socket_timeout=1"
    )
    assert found.sentinels == {"username": "s", "password": "p&w", "ssl_cert_reqs": "none"}
    assert found.login == ("a",)


def test_whose_certificate_it_is_is_looked_at_unless_the_url_says_otherwise() -> None:
    assert Endpoint.parse("rediss://host").options["ssl_check_hostname"] is True
    assert Endpoint.parse("rediss://host?ssl_check_hostname=no").options["ssl_check_hostname"] is False
    assert "ssl_check_hostname" not in Endpoint.parse("rediss://host?ssl_cert_reqs=none").options
    assert Endpoint.parse("redis://host").tls() is None


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("", "its scheme is another"),
        ("host:6379", "its scheme is another"),
        ("http://me:hunter2@host", "its scheme is another"),
        ("redis+proxy://me:hunter2@host", "its scheme is another"),
        ("unix+sentinel:///hunter2", "its scheme is another"),
        ("redis://me:hunter2@host:port", "its port is no number"),
        ("redis://:hun/ter2@host", "a / in the user or the password has to be percent-encoded"),
        ("redis://me:hun/ter2@host:6379/0", "a / in the user or the password has to be percent-encoded"),
        ("redis://:12/3hunter2@host", "a / in the user or the password has to be percent-encoded"),
        ("redis://hunter2/x@host", "a / in the user or the password has to be percent-encoded"),
        ("redis://:12?hunter2@host/0", "a . in the user or the password has to be percent-encoded, as %3F"),
        ("redis://:12#hunter2@host/0", "a # in it has to be percent-encoded"),
        ("redis+sentinel://:12#hunter2@a/m", "a # in it has to be percent-encoded"),
        ("redis+cluster://:12/hunter2@a", "a / in the user or the password has to be percent-encoded"),
        ("redis://me:hunter2@/0", "it names no host"),
        ("redis://me:hunter2@", "it names no host"),
        ("redis://me:hunter2@host:", "after the host's colon comes its port"),
        ("redis://me:hunter2@host/abc", "the number of a database, as /0"),
        ("redis://me:hunter2@host/0/1", "the number of a database, as /0"),
        ("redis://me:hunter2@host/-1", "the number of a database, as /0"),
        ("rediss://me:hunter2@host/0x1", "the number of a database, as /0"),
        ("redis://me:hunter2@host/٣", "the number of a database, as /0"),
        ("redis://me:hunter2@host?decode_responses=true", "decode_responses is not to be set"),
        ("redis+cluster://me:hunter2@host?decode_responses=1", "decode_responses is not to be set"),
        ("redis://me:hunter2@host?encoding=latin1", "encoding is not to be set"),
        ("redis://me:hunter2@host?protocol=3", "protocol is not to be set"),
        ("redis://me:hunter2@host:70000", "Port out of range"),
        ("redis://me:hunter2@host?socket_timeout=soon", "Invalid value for 'socket_timeout'"),
        ("redis://me:hunter2@host?colour=hunter2", "does not know one of its options"),
        ("rediss://me:hunter2@host?ssl_cert_reqs=hunter2", "RedisError"),
        ("redis+sentinel:///mymaster", "it names no host"),
        ("redis+sentinel://me:hunter2@a,b", "the name of the master"),
        ("redis+sentinel://me:hunter2@a,b/m/hunter2", "the database is no number"),
        ("redis+sentinel://me:hunter2@a,b/m/0/1", "the database is no number"),
        ("redis+sentinel://a:hunter2,b/m", "a host is written host:port"),
        ("redis+sentinel://a:99999/m", "a host is written host:port"),
        ("redis+sentinel://a/m?sentinel_pasword=hunter2", "sentinel_username and sentinel_password"),
        ("redis+cluster://me:hunter2@a,b/1", "only database 0"),
    ],
)
def test_what_is_no_url_of_redis_is_refused_with_its_reason_and_without_its_password(url: str, because: str) -> None:
    for make in (connect, connect_bus, lambda url: Subscriber(url, {})):
        with pytest.raises(SettingsError, match=because) as caught:
            make(url)
        assert "PUSHSVC_" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "ter2" not in str(caught.value)


def test_an_endpoint_does_not_show_what_it_holds() -> None:
    assert "hunter2" not in repr(Endpoint.parse("redis+sentinel://me:hunter2@a/m?sentinel_password=hunter2"))
