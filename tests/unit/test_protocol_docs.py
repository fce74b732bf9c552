"""docs/protocol.md against the code: its frames, cursors, codes and limits are those that are spoken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pushsvc import errors, wire
from pushsvc.domain import Cursor, format_cursor
from pushsvc.errors import JobError, PushsvcError, QueryError, TooMany
from pushsvc.settings import Settings
from pushsvc.wire import messages

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SERVER_FRAME: TypeAdapter[messages.ServerFrame] = TypeAdapter(messages.ServerFrame)
WHOLE: TypeAdapter[Any] = TypeAdapter(
    messages.JobEvent | messages.AppEvent | messages.ResetItem | messages.PollAnswer,
)


@pytest.mark.parametrize("text", re.findall(r"^C (\{.*\})$|`(\{\"id\":\d,\"op\".*?\})` \|", TEXT, re.MULTILINE))
def test_each_frame_of_a_client_is_understood(text: tuple[str, str]) -> None:
    wire.parse_frame("".join(text))


@pytest.mark.parametrize("text", re.findall(r"^S (\{.*\})$", TEXT, re.MULTILINE))
def test_each_frame_of_the_server_is_one(text: str) -> None:
    SERVER_FRAME.validate_json(text)


@pytest.mark.parametrize("text", re.findall(r"^```json\n(\{.*\})\n```$", TEXT, re.MULTILINE))
def test_each_event_reset_and_answer_is_one(text: str) -> None:
    WHOLE.validate_json(text)


def test_the_answers_in_the_table_are_what_is_answered() -> None:
    joined, nothing, acked, refreshed = re.findall(r"^\| `\{.*?\}` \| `(\{.*?\})`[;:|\s]", TEXT, re.MULTILINE)
    messages.Joined.model_validate_json(joined)
    messages.Refreshed.model_validate_json(refreshed)
    assert nothing == acked == "{}"


def test_the_cursor_is_written_as_it_is_read() -> None:
    (text,) = re.findall(r"^```\n(user:.*)\n```$", TEXT, re.MULTILINE)
    assert format_cursor(Cursor.parse(text).positions.items()) == text
    assert "group:Zürich" in Cursor.parse(text).positions


def test_every_error_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (\d{4}) \|", TEXT, re.MULTILINE)
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PushsvcError)]
    # Of no answer of ours: how jobs end, what queries raise, what keeps a process from starting, receivers' own.
    inside = (JobError, QueryError, errors.SettingsError, errors.BudgetError, errors.BadSignature)
    told = [each for each in classes if not issubclass(each, inside) and each is not TooMany]
    assert sorted(rows) == sorted({(each.code, str(each.status), str(each.close_code)) for each in told})


def test_every_close_code_of_an_error_is_explained() -> None:
    explained = set(re.findall(r"^\| (\d{4}) \|", TEXT, re.MULTILINE))
    used = {
        str(each.close_code)
        for each in vars(errors).values()
        if isinstance(each, type) and hasattr(each, "close_code")
    }
    assert used <= explained


def test_the_limits_are_the_defaults() -> None:
    settings = Settings.from_env({})
    assert f"up to {settings.frame_limit // 1024} KiB from you" in TEXT
    assert f"at most {settings.cursor_limit // 1024} KiB" in TEXT
    assert f"larger than {settings.inline_limit // 1024} KiB `ref`" in TEXT
    assert f"every {settings.ping:g} s" in TEXT
    assert f"within {settings.hello_timeout:g} s" in TEXT
    assert f"{settings.wait_limit:g} at the most" in TEXT
    assert f"{settings.rate_limit:g} requests" in TEXT
    for limit in (settings.connection_limit, settings.channel_limit, settings.device_limit):
        assert limit == 100


def test_every_file_of_vectors_is_listed() -> None:
    listed = set(re.findall(r"`(\w+\.json)`", TEXT.partition("## Vectors")[2]))
    assert listed == {path.name for path in (ROOT / "tests" / "vectors").glob("*.json")}
    for name in listed:
        json.loads((ROOT / "tests" / "vectors" / name).read_text(encoding="utf-8"))
