"""What may be a job, what its parameters become, and what becomes of what it returns."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import create_mock_engine, literal, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from pushsvc import JobContext, Service
from pushsvc.domain import Json
from pushsvc.errors import InvalidParams, JobFailed, SettingsError, UnknownJob
from pushsvc.jobs import JobSpec, params_model
from pushsvc.jobs.results import encode, success
from pushsvc.settings import Settings

LIMIT = 1_000_000


def spec_of(function: Callable[..., Any], **options: Any) -> JobSpec:
    service = Service(settings=Settings.from_env({}))
    service.job(**options)(function)
    (spec,) = service.jobs
    assert isinstance(spec, JobSpec)
    return spec


class Point(BaseModel):
    x: int
    y: int = 0


class Colour(enum.Enum):
    RED = "red"


# Registering


def test_a_function_stays_what_it_is_and_is_known_by_its_name() -> None:
    service = Service(settings=Settings.from_env({}))

    @service.job
    async def report(ctx: JobContext, origin: str) -> str:
        return origin

    @service.job(name="other.report-2", timeout="2m", retention="7d", max_attempts=3, coalesce=True)
    def second() -> None: ...

    second()
    assert report.__name__ == "report"
    spec = service.jobs.get("other.report-2")
    assert (spec.timeout, spec.retention, spec.max_attempts, spec.coalesce) == (120, 604800, 3, True)
    assert (spec.is_async, service.jobs.get("report").is_async) == (False, True)
    assert service.jobs.get("report").retention == 86400
    assert len(service.jobs) == 2
    with pytest.raises(UnknownJob, match="nothing"):
        service.jobs.get("nothing")


@pytest.mark.parametrize("name", ["1st", "a b", "a/b", "", "ä", "x" * 101, "<lambda>"])
def test_a_name_that_could_not_stand_in_a_url_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="name"):
        spec_of(lambda: None, name=name or "<lambda>")


def test_two_jobs_of_one_name_are_refused() -> None:
    service = Service(settings=Settings.from_env({}))
    service.job(name="a")(lambda: None)
    with pytest.raises(SettingsError, match="two jobs named 'a'"):
        service.job(name="a")(lambda: None)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": "soon"}, {"retention": -1}, {"max_attempts": 0}, {"timeout": math.nan}]
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="job a"):
        spec_of(lambda: None, name="a", **options)


def test_parameters_that_can_not_be_given_by_name_are_refused() -> None:
    def variadic(*args: int) -> None: ...
    def keywords(**kwargs: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def no_schema(a: Callable[[], Any], b: NullPool) -> None: ...

    for function in (variadic, keywords, positional, no_schema):
        with pytest.raises(SettingsError, match=f"job {function.__name__}"):
            spec_of(function)


# Parameters


async def everything(
    ctx: JobContext,
    origin: str,
    month: int = 1,
    *,
    ratio: float = 0.5,
    day: date | None = None,
    price: Decimal = Decimal("1.10"),
    colour: Colour = Colour.RED,
    mode: Literal["a", "b"] = "a",
    point: Point | None = None,
    tags: Annotated[list[str], Field(max_length=2)] = [],  # noqa: B006  # what authors write
    kinds: set[int] = {1},  # noqa: B006
    anything: Any = None,
) -> None: ...


def test_parameters_are_checked_filled_in_and_given_back_as_they_were_declared() -> None:
    spec = spec_of(everything)
    stored = spec.validate({"origin": "JFK", "point": {"x": "3"}, "day": "2026-11-22", "kinds": [2, 2]})
    arguments = spec.arguments(stored)
    assert arguments["origin"] == "JFK"
    assert (arguments["point"], arguments["day"], arguments["kinds"]) == (Point(x=3), date(2026, 11, 22), {2})
    assert (arguments["month"], arguments["price"], arguments["colour"]) == (1, Decimal("1.10"), Colour.RED)
    assert spec.context == "ctx"
    assert "ctx" not in arguments
    assert spec.arguments(spec.validate({"origin": "JFK"}))["tags"] == []


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, {"origin"}),
        ({"origin": 7}, {"origin"}),
        ({"origin": None}, {"origin"}),
        ({"origin": "JFK", "month": "x", "mode": "c"}, {"month", "mode"}),
        ({"origin": "JFK", "mnoth": 2}, {"mnoth"}),
        ({"origin": "JFK", "ctx": {}}, {"ctx"}),
        ({"origin": "JFK", "point": {"y": 1}}, {"point.x"}),
        ({"origin": "JFK", "tags": ["a", "b", "c"]}, {"tags"}),
    ],
)
def test_each_wrong_parameter_is_named(params: dict[str, Any], wrong: set[str]) -> None:
    with pytest.raises(InvalidParams) as caught:
        spec_of(everything).validate(params)
    assert {error["param"] for error in caught.value.extra["errors"]} == wrong
    json.dumps(caught.value.problem())


def test_what_was_wrong_is_not_repeated() -> None:
    with pytest.raises(InvalidParams) as caught:
        spec_of(everything).validate({"origin": ["hunter2"], "month": "hunter2"})
    assert "hunter2" not in str(caught.value.problem())


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", math.inf])
def test_a_number_that_json_does_not_have_is_refused_before_it_is_stored(value: object) -> None:
    """Stored as null, it could never be given to the job."""
    spec = spec_of(everything)
    with pytest.raises(InvalidParams):
        spec.arguments(spec.validate({"origin": "JFK", "ratio": value}))
    with pytest.raises(InvalidParams):
        spec.validate({"origin": "JFK", "ratio": value})


def test_a_parameter_with_another_name_outside_is_stored_so_that_it_is_found_again() -> None:
    def job(from_: Annotated[str, Field(alias="from")]) -> None: ...

    spec = spec_of(job)
    assert spec.arguments(spec.validate({"from": "JFK"})) == {"from_": "JFK"}


def test_parameters_stored_for_an_older_signature_are_a_failure_that_says_so() -> None:
    with pytest.raises(InvalidParams, match="signature has changed"):
        spec_of(everything).arguments('{"gone":1}')


def test_the_context_is_found_by_its_type_or_by_its_name() -> None:
    def typed(a: int, context: JobContext) -> None: ...
    def named(ctx, a=1): ...  # type: ignore[no-untyped-def]
    def neither(a: int) -> None: ...
    def a_parameter(ctx: str) -> None: ...

    assert [params_model(f.__name__, f)[1] for f in (typed, named, neither, a_parameter)] == [
        "context",
        "ctx",
        None,
        None,
    ]


def test_the_schema_of_a_job_is_that_of_its_parameters() -> None:
    schema = spec_of(everything).schema()
    assert schema["required"] == ["origin"]
    assert schema["properties"]["month"] == {"default": 1, "title": "Month", "type": "integer"}
    assert "ctx" not in schema["properties"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", ["schema", "copy", "json", "model_config", "_private", "self", "validate"])
def test_parameters_may_have_any_name_or_are_refused_at_once(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def job({name}: int = 1): ...", scope)
    try:
        spec = spec_of(scope["job"])
    except SettingsError:
        return
    assert spec.arguments(spec.validate({name: 2})) == {name: 2}


# Results


class Base(DeclarativeBase): ...


class Flight(Base):
    __tablename__ = "flight"
    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str]
    at: Mapped[datetime]


@dataclasses.dataclass
class Pair:
    left: int
    right: Any


MOMENT = datetime(2026, 11, 22, 9, tzinfo=UTC)
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "null"),
        ({"a": [1, 2.5, True, None]}, '{"a":[1,2.5,true,null]}'),
        ("Zürich 🚀 \u2028", '"Zürich 🚀 \u2028"'),
        (Decimal("1.10"), '"1.10"'),
        (MOMENT, '"2026-11-22T09:00:00Z"'),
        (date(2026, 11, 22), '"2026-11-22"'),
        (timedelta(hours=1), '"PT1H"'),
        (ID, f'"{ID}"'),
        ([math.nan, math.inf, -math.inf], "[null,null,null]"),
        ({1}, "[1]"),
        ((1, 2), "[1,2]"),
        (b"\xff\xfe", '"//4="'),
        ([Decimal("NaN"), Decimal("-Infinity")], "[null,null]"),
        (Pair(1, Point(x=2)), '{"left":1,"right":{"x":2,"y":0}}'),
        (Colour.RED, '"red"'),
        ({1: "a", ID: 2}, f'{{"1":"a","{ID}":2}}'),
        (Flight(id=1, origin="JFK", at=MOMENT), '{"id":1,"origin":"JFK","at":"2026-11-22T09:00:00Z"}'),
        ({"worst": [Flight(id=1)]}, '{"worst":[{"id":1}]}'),
        ((n for n in range(3)), "[0,1,2]"),
        (2**70, "1180591620717411303424"),
        ("\x00", '"\\u0000"'),
    ],
)
def test_what_a_job_returns_becomes_json(value: Any, encoded: str) -> None:
    assert encode(value, LIMIT).decode() == encoded


class Hollow:
    def __repr__(self) -> str:
        raise AssertionError("not even asked")


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Hollow(),
        {"a": Hollow()},
        print,
        "\ud800",
        {"\ud800": 1},
        circle(),
        deep(),
        [Hollow()],
        {Json(b"[1]"): 1},
        [Json(b"1"), {"a": 1, Json(b"2"): 2}],
    ],
    ids=[
        "object",
        "hollow",
        "inside",
        "function",
        "surrogate",
        "key",
        "circle",
        "deep",
        "list",
        "json as a key",
        "json as a later key",
    ],
)
def test_what_has_no_json_form_fails_the_job_and_says_so(value: Any) -> None:
    with pytest.raises(JobFailed, match="no JSON form") as caught:
        encode(value, LIMIT)
    from pushsvc import wire

    wire.dump(caught.value.problem())


def test_a_generator_that_raises_fails_the_job() -> None:
    def broken() -> Any:
        yield 1
        raise ZeroDivisionError

    with pytest.raises((JobFailed, ZeroDivisionError)):
        encode(broken(), LIMIT)


READY = b'[ {"a": 1.50, "a": 2},\n "\xc3\xbc \\u00fc" ]'
"""JSON as nobody here would write it: spaces, a trailing zero, a name twice, one letter in two ways."""


def test_json_that_is_ready_goes_in_byte_by_byte_wherever_it_stands() -> None:
    ready, empty = Json(READY), Json(b"[]")
    assert encode(ready, LIMIT) == READY
    assert encode([ready], LIMIT) == b"[" + READY + b"]"
    assert encode({"rows": ready}, LIMIT) == b'{"rows":' + READY + b"}"
    assert encode((ready, ready, empty), LIMIT) == b"[" + READY + b"," + READY + b",[]]"
    assert encode((part for part in (empty, ready)), LIMIT) == b"[[]," + READY + b"]"
    assert encode({"a": {"b": [1, {"c": ready}]}, "d": [empty, 2, ready]}, LIMIT) == (
        b'{"a":{"b":[1,{"c":' + READY + b'}]},"d":[[],2,' + READY + b"]}"
    )
    assert encode(Pair(1, [empty, ready]), LIMIT) == b'{"left":1,"right":[[],' + READY + b"]}"


@pytest.mark.parametrize("text", ['"', "\\", '","', '{"a":1}', "[]", "null", "\x00", "0" * 32, READY.decode(), "€🛫"])
def test_json_that_is_ready_stands_beside_texts_that_look_like_anything(text: str) -> None:
    ready = Json(READY)
    written = encode({text: [text, ready, text], "last": ready}, LIMIT)
    around = json.dumps(text, ensure_ascii=False).encode()
    assert written == b"{" + around + b":[" + around + b"," + READY + b"," + around + b'],"last":' + READY + b"}"


def test_a_text_can_not_pass_for_json_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def remembered(size: int) -> str:
        seen.append(secrets.token_bytes(size).hex())
        return seen[-1]

    monkeypatch.setattr("pushsvc.jobs.results.secrets.token_hex", remembered)
    encode(Json(READY), LIMIT)
    assert encode([*seen, Json(b"1")], LIMIT) == f'["{seen[0]}",1]'.encode()


def test_json_that_is_ready_counts_for_the_limit() -> None:
    assert encode([Json(b"12345678")], 10) == b"[12345678]"
    with pytest.raises(JobFailed, match="11 bytes; PUSHSVC_RESULT_LIMIT is 10"):
        encode([Json(b"123456789")], 10)


async def test_rows_of_a_query_are_objects_by_column(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    async with engine.connect() as connection:
        statement = select(literal(1).label("n"), literal("x").label("text"))
        rows = (await connection.execute(statement)).all()
    await engine.dispose()
    assert encode(rows, LIMIT) == b'[{"n":1,"text":"x"}]'
    assert encode({"row": rows[0], "mapping": rows[0]._mapping}, LIMIT).startswith(b'{"row":{"n":1,"text":"x"}')


def test_a_detached_entity_gives_what_it_has_loaded_and_asks_nobody() -> None:
    engine = create_mock_engine("postgresql://", lambda *_a, **_k: pytest.fail("no query"))
    with Session(engine):  # type: ignore[arg-type]
        assert json.loads(encode(Flight(id=1, origin="JFK"), LIMIT)) == {"id": 1, "origin": "JFK"}


def test_a_result_may_have_so_many_bytes_and_no_more() -> None:
    assert encode("x" * 8, 10) == b'"xxxxxxxx"'
    with pytest.raises(JobFailed, match="11 bytes; PUSHSVC_RESULT_LIMIT is 10"):
        encode("x" * 9, 10)


def test_a_result_beyond_the_inline_limit_is_sent_by_reference() -> None:
    small, large = success("j", 2, b"12345", 5), success("j", 2, b"123456", 5)
    assert (small.inline, small.sha256) == (True, None)
    assert not large.inline
    assert large.sha256 is not None
    assert len(large.sha256) == 64


def test_a_partial_of_a_coroutine_function_is_one() -> None:
    async def job(a: int, b: int) -> int:
        return a + b

    model, _ = params_model("job", job)
    spec = JobSpec("job", functools.partial(job, b=1), 1, 1, 1, False, model, None)
    assert spec.is_async
