"""No password is printed, whatever it is and wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushsvc.bus.endpoint import Endpoint
from pushsvc.errors import SettingsError
from pushsvc.masking import mask_url
from pushsvc.settings import Settings
from pushsvc.store.conninfo import Conninfo

MARK = "hunter2"
"""A piece of every password: what must not be seen."""

quick = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
around = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
passwords = st.builds(lambda before, after: before + MARK + after, around, around)


def encoded(password: str) -> str:
    return quote(password, safe="")


def quoted(password: str) -> str:
    return "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"


def escaped(password: str) -> str:
    return "".join(f"\\{each}" if each in "\\'" or each.isspace() else each for each in password)


PROPER: dict[str, Callable[[str], str]] = {
    "login": lambda p: f"postgresql://me:{encoded(p)}@db.example:5432/app?sslmode=require",
    "login of mail": lambda p: f"postgresql://me@corp.example:{encoded(p)}@db.example/app",
    "IPv6": lambda p: f"postgresql://me:{encoded(p)}@[::1]:5432/app",
    "parameter": lambda p: f"postgresql://db.example/app?user=me&password={encoded(p)}&sslmode=require",
    "encoded parameter": lambda p: f"postgresql://db.example/app?p%61ssword={encoded(p)}",
    "key of a certificate": lambda p: f"postgresql://db.example/app?sslpassword={encoded(p)}",
    "file of passwords": lambda p: f"postgresql://db.example/app?passfile={encoded(p)}",
    "pairs, quoted": lambda p: f"host=db.example password={quoted(p)} dbname=app",
    "pairs, escaped": lambda p: f"host=db.example password={escaped(p)} dbname=app",
    "pairs, spaced": lambda p: f"host = db.example password = {quoted(p)}",
    "pairs, key": lambda p: f"sslpassword={quoted(p)} host=db.example",
    "redis": lambda p: f"redis://:{encoded(p)}@redis.example:6379/0",
    "redis, user": lambda p: f"rediss://me:{encoded(p)}@redis.example:6379/0?ssl_cert_reqs=none",
    "redis, parameter": lambda p: f"redis://redis.example?password={encoded(p)}",
    "redis, socket": lambda p: f"unix://:{encoded(p)}@/run/redis.sock?db=1",
    "sentinel": lambda p: f"redis+sentinel://me:{encoded(p)}@a:26379,b:26379/mymaster/0",
    "sentinel's own": lambda p: f"redis+sentinel://a:26379/mymaster?sentinel_password={encoded(p)}",
    "cluster": lambda p: f"redis+cluster://:{encoded(p)}@a:6379,b:6379",
}
RAW: dict[str, Callable[[str], str]] = {
    "login": lambda p: f"postgresql://me:{p}@db.example:5432/app",
    "no host": lambda p: f"postgresql://me:x{p.replace('?', '').replace('@', '')}",
    "parameter": lambda p: f"postgresql://db.example/app?password={p}",
    "redis": lambda p: f"redis://:{p}@redis.example:6379/0",
    "another scheme": lambda p: f"jdbc:postgresql://db.example/app?password={p}",
    "no form at all": lambda p: f"db.example {p}",
    "pairs": lambda p: f"host=db.example password={p}",
}


def told(text: str) -> str:
    """All that is ever printed of it."""
    shown = [mask_url(text)]
    for setting in ("database_url", "redis_url", "bus_url", "callback_url"):
        with suppress(SettingsError):
            made = Settings.from_env({f"PUSHSVC_{setting.upper()}": text})
            shown += [str(made.masked()), repr(made)]
    for parse in (Conninfo.parse, Endpoint.parse):
        try:
            shown.append(repr(parse(text)))
        except SettingsError as error:
            shown += [str(error), repr(error), str(error.problem())]
    return "\n".join(shown)


@pytest.mark.parametrize("form", PROPER)
@quick
@given(password=passwords)
def test_a_password_written_as_it_should_be_is_never_shown(form: str, password: str) -> None:
    text = PROPER[form](password)
    assert MARK not in told(text), text


@pytest.mark.parametrize("form", RAW)
@quick
@given(password=passwords)
def test_a_password_that_should_have_been_encoded_is_masked_all_the_same(form: str, password: str) -> None:
    text = RAW[form](password)
    assert MARK not in mask_url(text), text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("host=db port=5432 dbname=app user=me password=x", "host=db port=5432 dbname=app user=me password=***"),
        ("password='a b' host=db", "password=*** host=db"),
        ("host=db options='-c a.b=secret'", "host=db ***"),
        ("postgresql://me@[::1]:5432/app?sslmode=require", "postgresql://me@[::1]:5432/app?sslmode=require"),
        ("postgresql://h/app?passfile=/home/me/.pgpass", "postgresql://h/app?passfile=***"),
        ("postgresql://me@corp.example:x@h/app", "postgresql://me@corp.example:***@h/app"),
        ("whatever", "***"),
        ("", ""),
    ],
)
def test_what_is_harmless_is_shown(url: str, shown: str) -> None:
    assert mask_url(url) == shown
