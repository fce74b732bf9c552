"""`docs/operations.md` says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import hiredis

from pushsvc import bus, store
from pushsvc.ops.budget import Processes, budget
from pushsvc.settings import PREFIX, Settings

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_every_setting_is_listed_in_order_with_its_default() -> None:
    rows = re.findall(r"^\| `(PUSHSVC_\w+)` \| (?:`(\S+)`)? ?\| \S", TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [PREFIX + name.upper() for name in Settings.model_fields]
    documented = {name: default for name, default in rows if default}
    assert Settings.from_env(documented) == Settings.from_env({})


def test_the_arithmetic_shown_is_what_comes_out() -> None:
    shown = budget([Processes("web", 8, own=5, executor=4), Processes("worker", 1, own=10, executor=4)])
    assert f"```\n{shown}\n```" in TEXT


def test_each_word_that_is_said_of_an_engine_is_explained() -> None:
    for owner, words in (("PostgreSQL", store_words), ("Redis", redis_words)):
        section = TEXT.split(f"### {owner}\n", 1)[1].split("\n##", 1)[0]
        explained = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)))
        said = words()
        assert explained
        for word in explained:
            assert any(word in each for each in said), f"{owner} is never said to be {word!r}"


def store_words() -> list[str]:
    states = ["08006", "25006", "28000", "53000", "53100", "53200", "53300", "55P03", "57014", "58000"]
    errors = [asyncpg.PostgresError.new({"C": state, "M": ""}) for state in states]
    return [store.described(error) for error in (*errors, OSError(), TimeoutError())]


def redis_words() -> list[str]:
    codes = ("OOM", "READONLY", "MISCONF", "LOADING", "NOAUTH", "NOPERM")
    errors = [hiredis.ReplyError(code) for code in codes]
    return [bus.described(error) for error in (*errors, OSError(), TimeoutError())]
