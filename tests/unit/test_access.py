"""Who, whose, from where and how many: what is let in, and what every refusal keeps to itself."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from jwt.utils import base64url_encode
from starlette.requests import HTTPConnection

from pushsvc.access import (
    DEFAULT_SCOPES,
    Logins,
    Rate,
    Revocations,
    Slots,
    Tokens,
    allowed_origin,
    bearer,
    may_hear,
    need_publish,
    need_scope,
    owns,
)
from pushsvc.domain import Principal, Revocation
from pushsvc.errors import BadRequest, Forbidden, RateLimited, SettingsError, TooManyConnections, Unauthorized

from .test_wire import a_job

SECRET = "0123456789abcdef0123456789abcdef"
TOKENS = Tokens(SECRET)


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    body = {"sub": "me", "exp": int(time.time()) + 60} | claims
    return jwt.encode({name: value for name, value in body.items() if value is not None}, secret, algorithm)


def test_a_minted_token_says_who_it_is_and_what_it_may() -> None:
    token = TOKENS.mint("me", tenant="acme", channels=["group:ops"], scope=["read"], ttl=60)
    principal = TOKENS.verify(token)
    assert (principal.subject, principal.tenant) == ("me", "acme")
    assert (principal.channels, principal.scopes) == (frozenset({"group:ops"}), frozenset({"read"}))
    assert principal.expires_at is not None
    assert 50 < principal.expires_at.timestamp() - time.time() <= 60
    assert TOKENS.verify(token) == principal, "again"


@pytest.mark.parametrize("channel", ["user:bob", "user:me", "job:01J9ZZ8QG5V0000000000000AB", "group:", "ops"])
def test_a_token_is_made_for_groups_only(channel: str) -> None:
    with pytest.raises(BadRequest):
        TOKENS.mint("me", channels=[channel])


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan"), 1e300, True, "1h"])
def test_a_token_has_an_end_that_a_calendar_knows(ttl: Any) -> None:
    with pytest.raises(BadRequest, match="valid for"):
        TOKENS.mint("me", ttl=ttl)


@pytest.mark.parametrize(
    "principal",
    [
        Principal("a\ud800"),
        Principal(""),
        Principal("me", tenant="a:b"),
        Principal("me", channels=frozenset({"group:\x00"})),
        Principal("me", channels=frozenset({"ops"})),
        Principal("me", scopes=frozenset({"a\nb"})),
        Principal("me", token_id="\ud800"),
        Principal(7),  # type: ignore[arg-type]
    ],
)
async def test_a_principal_that_the_apps_login_makes_is_checked_as_a_tokens_claims_are(principal: Principal) -> None:
    logins = Logins(lambda _connection: principal, TOKENS, [], 60)
    scope = {"type": "http", "method": "GET", "headers": []}
    with pytest.raises(BadRequest):
        await logins.login(HTTPConnection(scope))


def test_a_plain_token_may_submit_and_read_in_the_default_tenant() -> None:
    principal = TOKENS.verify(signed())
    assert (principal.tenant, principal.scopes, principal.channels) == ("default", DEFAULT_SCOPES, frozenset())


@pytest.mark.parametrize(
    ("scope", "means"),
    [
        ("read submit:any", {"read", "submit:any"}),
        ("read,submit", {"read", "submit"}),
        ("  read   submit ", {"read", "submit"}),
        (["read"], {"read"}),
        ([], set()),
        ("", set()),
    ],
)
def test_scopes_come_as_text_or_as_a_list(scope: Any, means: set[str]) -> None:
    assert TOKENS.verify(signed(scope=scope)).scopes == means


def renamed(token: str, algorithm: Any) -> str:
    """The token with another algorithm in its header, signed again as its HMAC with the secret."""
    header = base64url_encode(json.dumps({"typ": "JWT", "alg": algorithm}).encode())
    body = header + b"." + token.split(".")[1].encode()
    return (body + b"." + base64url_encode(hmac.digest(SECRET.encode(), body, "sha256"))).decode()


FORGED: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "garbage": lambda: "garbage",
    "three dots": lambda: "...",
    "not ASCII": lambda: "é.é.é",
    "huge": lambda: "a" * 100_000,
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "another secret": lambda: signed("another secret of 32 characters!"),
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "unsigned": lambda: jwt.encode({"sub": "me", "exp": int(time.time()) + 60}, "", algorithm="none"),
    "another HMAC": lambda: signed(algorithm="HS512"),
    "RS256 in name, HMAC in truth": lambda: renamed(signed(), "RS256"),
    "no algorithm in name": lambda: renamed(signed(), None),
    "an algorithm of list": lambda: renamed(signed(), ["HS256"]),
    "no subject": lambda: signed(sub=None),
    "no expiry": lambda: signed(exp=None),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 3600),
    "an expiry of text": lambda: signed(exp="soon"),
    "an expiry out of all calendars": lambda: signed(exp=10**15),
    "an infinite expiry": lambda: signed(exp=float("inf")),
    "an expiry that is no moment": lambda: signed(exp="9" * 30),
    "a negative expiry": lambda: signed(exp=-1),
    "a subject of number": lambda: signed(sub=7),
    "an empty subject": lambda: signed(sub=""),
    "a subject of list": lambda: signed(sub=["me"]),
    "a subject with a line break": lambda: signed(sub="a\nb"),
    "a long subject": lambda: signed(sub="x" * 201),
    "an empty tenant": lambda: signed(tenant=""),
    "a tenant of number": lambda: signed(tenant=7),
    "a long tenant": lambda: signed(tenant="x" * 101),
    "a tenant that could be taken for another's channel": lambda: signed(tenant="default:user:me"),
    "channels of text": lambda: signed(channels="group:ops"),
    "channels of number": lambda: signed(channels=7),
    "channels of numbers": lambda: signed(channels=[7]),
    "a channel that is none": lambda: signed(channels=["ops"]),
    "scopes of number": lambda: signed(scope=7),
    "scopes of numbers": lambda: signed(scope=[7]),
    "scopes of object": lambda: signed(scope={"admin": True}),
}


@pytest.mark.parametrize("forged", FORGED)
def test_anything_but_a_whole_signed_unexpired_token_is_refused(forged: str) -> None:
    token = FORGED[forged]()
    with pytest.raises(Unauthorized) as caught:
        TOKENS.verify(token)
    told = repr(caught.value) + str(caught.value.problem())
    assert SECRET not in told
    assert len(token) < 20 or token not in told


def test_a_remembered_token_is_not_good_beyond_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(SECRET)
    token = signed(exp=int(time.time()) - 2)
    tokens.verify(token)
    assert tokens.verify(token).subject == "me", "within the leeway"
    late = signed(exp=int(time.time()) - 10)
    with pytest.raises(Unauthorized):
        tokens.verify(late)


def test_nothing_that_could_be_printed_shows_the_secret() -> None:
    assert SECRET not in repr(TOKENS)
    assert SECRET not in str(TOKENS)
    with pytest.raises(SettingsError) as caught:
        Tokens("hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"sub": ""}, {"sub": "a\nb"}, {"channels": ["ops"]}, {"tenant": "a:b"}, {"tenant": ""}]
)
def test_a_token_that_would_be_refused_is_not_minted(changes: dict[str, Any]) -> None:
    with pytest.raises((BadRequest, Unauthorized)):
        TOKENS.mint(**{"sub": "me"} | changes)


@pytest.mark.parametrize("sub", ["a,b", "a@b.c", "100%", "Zürich", "a b", "🚀", "user:x"])
def test_subjects_may_have_odd_names(sub: str) -> None:
    assert TOKENS.verify(TOKENS.mint(sub)).subject == sub


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER abc", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("abc", None),
        ("", None),
        (None, None),
    ],
)
def test_a_bearer_header_holds_a_token(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


# Whose


def test_a_job_is_its_owners_or_of_whoever_knows_the_id_of_nobodys() -> None:
    me, you, abroad = Principal("me"), Principal("you"), Principal("me", "other")
    assert [owns(each, a_job(owner="me")) for each in (me, you, abroad)] == [True, False, False]
    assert [owns(each, a_job(owner=None)) for each in (me, you, abroad)] == [True, True, False]


def test_one_hears_ones_inbox_and_what_the_token_names() -> None:
    me = Principal("me", channels=frozenset({"group:ops"}), scopes=frozenset({"admin"}))
    names = ("user:me", "group:ops", "user:you", "group:dev", "user:me2", "job:1")
    assert [may_hear(me, name) for name in names] == [True, True, False, False, False, False]


def test_results_go_to_others_only_with_the_scope_for_it() -> None:
    need_publish(Principal("me"), ("user:me",))
    with pytest.raises(Forbidden, match="submit:any"):
        need_publish(Principal("me"), ("user:me", "user:you"))
    need_publish(Principal("me", scopes=frozenset({"submit:any"})), ("user:you", "group:ops"))


def test_a_scope_that_lacks_is_named_and_admin_has_all() -> None:
    with pytest.raises(Forbidden, match="read"):
        need_scope(Principal("me", scopes=frozenset({"submit", "reader"})), "read")
    need_scope(Principal("me", scopes=frozenset({"admin"})), "read")


# From where


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "answer"),
    [
        (None, "app.example", (), True),
        ("https://app.example", "app.example", (), True),
        ("http://app.example:8000", "app.example:8000", (), True),
        ("HTTPS://APP.example", "app.EXAMPLE", (), True),
        ("https://app.example:8443", "app.example", (), False),
        ("https://app.example", None, (), False),
        ("https://evil.example", "app.example", (), False),
        ("https://app.example.evil.example", "app.example", (), False),
        ("https://evilapp.example", "app.example", (), False),
        ("https://app.example@evil.example", "app.example", (), False),
        ("null", "app.example", (), False),
        ("null", "", (), False),
        ("", "app.example", (), False),
        ("", "", (), False),
        ("https://[evil", "app.example", (), False),
        ("app.example", "app.example", (), False),
        ("https://spa.example", "app.example", ("https://spa.example",), True),
        ("https://spa.example", "app.example", ("https://other.example", "https://spa.example"), True),
        ("http://spa.example", "app.example", ("https://spa.example",), False),
        ("https://evil.example", "app.example", ("*",), True),
    ],
)
def test_other_sites_are_kept_out(
    origin: str | None, host: str | None, allowed: tuple[str, ...], answer: bool
) -> None:
    assert allowed_origin(origin, host, allowed) is answer


# How many


def test_each_holder_has_so_many_at_once_and_no_more() -> None:
    slots = Slots[str](2)
    slots.take("me", "a")
    slots.take("me", "b")
    slots.take("you", "c")
    with pytest.raises(TooManyConnections, match="2 connections"):
        slots.take("me", "d")
    assert (slots.of("me"), slots.of("you"), slots.of("nobody")) == (("a", "b"), ("c",), ())
    slots.give_back("me", "a")
    slots.take("me", "d")
    assert slots.of("me") == ("b", "d")


def test_slots_come_back_after_an_error_and_leave_no_trace() -> None:
    slots = Slots[str](1)
    for _ in range(3):
        with suppress(ZeroDivisionError), slots.held("me", "a"):
            with pytest.raises(TooManyConnections):
                slots.take("me", "b")
            raise ZeroDivisionError
    assert not slots._held


def test_a_holder_may_ask_so_often_and_in_bursts_and_others_do_not_suffer() -> None:
    now = 0.0
    rate = Rate(10, lambda: now)
    for _ in range(50):
        rate.count("me")
    with pytest.raises(RateLimited, match="10 requests a second") as caught:
        rate.count("me")
    assert caught.value.extra["retry_after"] == 1
    rate.count("you")
    now = 0.1
    rate.count("me")
    with pytest.raises(RateLimited):
        rate.count("me")
    now = 100.0
    for _ in range(50):
        rate.count("me")
    assert set(rate._due) == {"me"}, "who asks no more is forgotten"


# Revocations


def test_a_revoked_subjects_tokens_are_void_but_not_those_issued_since() -> None:
    revocations = Revocations()
    tokens = Tokens(SECRET, revocations)
    before = tokens.mint("me")
    tokens.verify(before)
    issued = tokens.verify(before).issued_at
    assert issued is not None
    revocations.add(Revocation("default", "me", issued))
    revocations.add(Revocation("default", "me", issued - timedelta(hours=1)))
    with pytest.raises(Unauthorized, match="revoked"):
        tokens.verify(before)
    tokens.verify(tokens.mint("you"))
    tokens.verify(tokens.mint("me", tenant="other"))
    tokens.verify(signed(SECRET, iat=issued.timestamp() + 0.001))


def test_one_token_is_revoked_by_its_id() -> None:
    revocations = Revocations()
    tokens = Tokens(SECRET, revocations)
    stolen, mine = tokens.mint("me"), tokens.mint("me")
    revocations.add(Revocation("default", "me", datetime.now(UTC), tokens.verify(stolen).token_id))
    with pytest.raises(Unauthorized, match="revoked"):
        tokens.verify(stolen)
    tokens.verify(mine)


def test_a_token_that_does_not_say_when_it_was_issued_counts_as_old() -> None:
    revocations = Revocations()
    revocations.add(Revocation("default", "me", datetime(2020, 1, 1, tzinfo=UTC)))
    token = jwt.encode({"sub": "me", "exp": time.time() + 60}, SECRET, algorithm="HS256")
    with pytest.raises(Unauthorized, match="revoked"):
        Tokens(SECRET, revocations).verify(token)


@pytest.mark.parametrize("secret", ["", "1234567", "s" * 31])
def test_a_secret_that_could_be_guessed_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(SettingsError, match="PUSHSVC_SECRET") as caught:
        Tokens(secret)
    assert not secret or secret not in str(caught.value)


def test_a_secret_of_32_characters_is_good() -> None:
    Tokens("s" * 32)
