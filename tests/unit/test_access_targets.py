"""Where webhooks may go: public addresses by https, what is allowed by name, and nothing else however it is spelt."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.access import Targets, parse_target
from pushsvc.access.targets import is_public
from pushsvc.errors import BadRequest, SettingsError

PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255",
    "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_what_only_some_can_reach_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not Targets().allows(parse_target("https://hooks.example/"), address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_everybody_can_reach_is_public(address: str) -> None:
    assert is_public(ip_address(address))
    assert Targets().allows(parse_target("https://hooks.example/"), address)
    assert not Targets().allows(parse_target("http://hooks.example/"), address)


@given(st.ip_addresses(v=4))
def test_mapped_and_translated_addresses_are_as_public_as_what_they_stand_for(address: object) -> None:
    inner = ip_address(str(address))
    assert is_public(ip_address(f"::ffff:{address}")) is is_public(inner)
    assert is_public(ip_address(f"64:ff9b::{address}")) is is_public(inner)


@given(st.ip_addresses())
def test_whatever_is_public_is_so_for_python_too(address: object) -> None:
    found = ip_address(str(address))
    translated = str(found).startswith("64:ff9b::")
    assert not is_public(found) or translated or (found.is_global and not found.is_multicast)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://hooks.example", "https://hooks.example/"),
        ("HTTPS://Hooks.Example:443/A?b=C", "https://hooks.example/A?b=C"),
        ("https://hooks.example?token=x", "https://hooks.example/?token=x"),
        ("https://hooks.example:8443/a/b", "https://hooks.example:8443/a/b"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700:0:0::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://a_b-c.example/%20?x=@:/", "https://a_b-c.example/%20?x=@:/"),
    ],
)
def test_a_url_has_one_canonical_form(url: str, canonical: str) -> None:
    assert Targets().check(url) == canonical
    assert str(parse_target(canonical)) == canonical


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "//hooks.example", "ftp://hooks.example/", "https:hooks.example", "https:///x",
        "https://me@hooks.example/", "https://me:hunter2@hooks.example/", "https://hooks.example/#top",
        "https://hooks.example/a b", "https://hooks.example/\r\nHost: x", "https://hooks.example\\@127.0.0.1/",
        "https://hooks.example:0/", "https://hooks.example:65536/", "https://hooks.example:x/", "https://hooks..example/",
        "https://.example/", "https://hooks.example./", "https://" + "a" * 64 + ".example/", "https://züri.example/",
        "https://127.1/", "https://0x7f000001/", "https://2130706433/", "https://0177.0.0.1/", "https://1.2.3.256/",
        "https://x.0x1/", "https://[::1", "https://[::1%25eth0]/", "https://[1.2.3.4]/",
        "https://hooks.example/" + "x" * 2048,
        " https://hooks.example/", "https://hooks.example/\n", "https://hooks.example/\x00", "https://%31.2.3.4/",
    ],
)  # fmt: skip
def test_what_is_no_url_to_send_to_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadRequest, match="callback_url") as caught:
        Targets(["0.0.0.0/0", "::/0"]).check(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://10.0.0.1:8443/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/", "https://localhost/", "https://app.localhost/", "http://hooks.example/",
        "http://8.8.8.8/",
    ],
)  # fmt: skip
def test_what_can_be_told_without_resolving_is_refused_at_submission(url: str) -> None:
    with pytest.raises(BadRequest, match="PUSHSVC_WEBHOOK_ALLOW"):
        Targets().check(url)


def test_a_name_is_taken_as_it_is_until_it_is_resolved() -> None:
    assert Targets().check("https://internal/") == "https://internal/"


@pytest.mark.parametrize(
    ("allow", "url", "address", "allowed"),
    [
        (["127.0.0.0/8"], "http://127.0.0.1:9000/", "127.0.0.1", True),
        (["127.0.0.0/8"], "http://localhost/", "127.0.0.1", True),
        (["127.0.0.0/8"], "http://localhost/", "::1", False),
        (["::1"], "http://localhost/", "::1", True),
        (["127.0.0.0/8"], "https://hooks.example/", "::ffff:127.0.0.1", True),
        (["127.0.0.0/8"], "https://hooks.example/", "10.0.0.1", False),
        (["10.1.2.3"], "http://hooks.example/", "10.1.2.3", True),
        (["10.1.2.3"], "http://hooks.example/", "10.1.2.4", False),
        (["10.0.0.0/8"], "http://hooks.example/", "8.8.8.8", False),
        (["internal.example"], "http://internal.example/", "10.0.0.1", True),
        (["Internal.Example"], "https://internal.example/", "127.0.0.1", True),
        (["internal.example"], "https://other.internal.example/", "10.0.0.1", False),
        (["*.internal.example"], "http://a.b.internal.example/", "10.0.0.1", True),
        (["*.internal.example"], "https://internal.example/", "10.0.0.1", False),
        (["*.internal.example"], "https://notinternal.example/", "10.0.0.1", False),
        ([], "https://hooks.example/", "no address", False),
    ],
)
def test_what_is_allowed_may_be_private_and_called_by_http(
    allow: list[str], url: str, address: str, allowed: bool
) -> None:
    assert Targets(allow).allows(parse_target(url), address) is allowed


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        (["127.0.0.0/8"], "http://127.0.0.1/"),
        (["127.0.0.0/8"], "http://localhost/"),
        (["localhost"], "http://localhost/"),
        (["10.0.0.0/8"], "http://internal/"),
        (["hooks.example"], "http://hooks.example/"),
    ],
)
def test_what_may_turn_out_to_be_allowed_is_accepted(allow: list[str], url: str) -> None:
    assert Targets(allow).check(url) == url


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "https://x", "a b", "*", "*.", "x*.example", "a/8"])
def test_an_allowance_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_WEBHOOK_ALLOW"):
        Targets([entry])


def test_only_the_origin_is_ever_shown() -> None:
    target = parse_target("https://hooks.example:8443/services/T0/hunter2?token=hunter2")
    assert target.origin == "https://hooks.example:8443"
    assert "hunter2" not in repr(target)
