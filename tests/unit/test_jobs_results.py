"""Values do not change on the way, neither parameters nor results; or they are refused, with their place."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    SecretStr,
    Strict,
    computed_field,
    field_validator,
)
from sqlalchemy import JSON, create_engine, literal, select
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pushsvc import Service
from pushsvc.domain import Groups
from pushsvc.domain import Json as Ready
from pushsvc.errors import InvalidParams, JobFailed
from pushsvc.jobs import JobSpec
from pushsvc.jobs.results import encode
from pushsvc.settings import Settings

LIMIT = 1_000_000
quick = settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Colour(Enum):
    RED = "red"
    ONE = 1


class Bag(BaseModel):
    things: dict[Any, Any] = {}


class Open(BaseModel, extra="allow"):
    n: int = 1


@dataclass
class Box:
    inside: Any
    more: list[Any] = field(default_factory=list)


class Base(DeclarativeBase): ...


class Flight(Base):
    __tablename__ = "flight_of_results"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[Any] = mapped_column(JSON)


def row(*names: str) -> Any:
    return IteratorResult(SimpleResultMetaData(names), iter([tuple(range(len(names)))])).one()


# Keys

keys = (
    st.sampled_from(["1", "true", "null", "1.5", "red", "2026-11-22", "None", "a", "1.0"])
    | st.sampled_from(
        [1, True, None, 1.5, Colour.RED, Colour.ONE, date(2026, 11, 22), Decimal("1.5"), UUID(int=1), 1.0]
    )
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
)
wrappers = st.sampled_from([lambda it: it, lambda it: Box(it), lambda it: [it], lambda it: OrderedDict(a=it)])


@quick
@given(made=st.lists(st.tuples(keys, st.integers()), max_size=4).map(dict), wrap=wrappers)
def test_an_object_has_as_many_members_as_the_dict_had_keys(made: dict[Any, int], wrap: Any) -> None:
    try:
        text = encode(wrap(made), LIMIT).decode()
    except JobFailed:
        return
    found: list[list[Any]] = []

    def read(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append([value for _, value in members])
        return dict(members)

    json.loads(text, object_pairs_hook=read)
    assert Counter(found[0]) == Counter(made.values())


@pytest.mark.parametrize("things", [{1: "a", "1": "b"}, {1.5: 1, "1.5": 2}, {Colour.RED: 1, "red": 2}])
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda it: it, "it"),
        (lambda it: {"a": [it]}, "a[0]"),
        (lambda it: Box(1, [it]), "more[0]"),
        (lambda it: {"a b": Counter(it)}, "['a b']"),
        (lambda it: [Bag(things=it)], "[0]"),
        (lambda it: [Flight(id=1, tags=it)], "[0].tags"),
    ],
    ids=["root", "list", "dataclass", "subclass", "model", "entity"],
)
def test_keys_that_are_one_in_json_are_refused_wherever_they_stand(things: Any, wrap: Any, place: str) -> None:
    with pytest.raises(JobFailed, match="two keys") as caught:
        encode(wrap(things), LIMIT)
    assert f"no JSON form: {place}" in str(caught.value)


@quick
@given(
    st.dictionaries(st.tuples(st.none() | st.text(max_size=3), st.integers() | st.text(max_size=3)), st.integers())
)
def test_a_count_by_several_columns_is_a_list_in_which_nothing_is_lost(counts: dict[tuple[Any, ...], int]) -> None:
    found = json.loads(encode({"counts": Groups(counts)}, LIMIT))["counts"]
    assert isinstance(found, list), "also when there are none"
    assert {tuple(each["key"]): each["value"] for each in found} == counts
    if counts:
        assert json.loads(encode(counts, LIMIT)) == found, "so is any dict by tuples"


def test_keys_that_are_tuples_do_not_stand_beside_others() -> None:
    with pytest.raises(JobFailed, match="tuples beside others"):
        encode({("a", "b"): 1, "a,b": 2}, LIMIT)


def test_two_columns_of_one_name_are_refused_and_named() -> None:
    assert encode([row("id", "name")], LIMIT) == b'[{"id":0,"name":1}]'
    for made in (row("id", "id"), row("id", "id")._mapping):
        with pytest.raises(JobFailed, match=r"rows\[0\] has two columns named id; .*label"):
            encode({"rows": [made]}, LIMIT)
    with create_engine("sqlite://").connect() as connection:
        twice = connection.execute(select(literal(1).label("n"), literal(2).label("n"))).one()
    with pytest.raises(JobFailed, match="two columns named n"):
        encode(twice, LIMIT)


# Places

BAD: dict[str, Any] = {"object": object(), "surrogate": "\ud800", "range": range(3), "function": print, "type": int}


@st.composite
def planted(draw: st.DrawFn) -> tuple[Any, str]:
    """Something bad deep in a value, and where it stands."""
    value, place = BAD[draw(st.sampled_from(sorted(BAD)))], ""
    for _ in range(draw(st.integers(1, 5))):
        match draw(st.sampled_from(["list", "dict", "number", "box", "entity", "tuples", "row"])):
            case "list":
                before = draw(st.integers(0, 3))
                value, place = [*([1] * before), value], f"[{before}]{place}"
            case "dict":
                value, place = {"x": 1, "v": value}, f".v{place}"
            case "number":
                value, place = {7: value}, f"['7']{place}"
            case "box":
                value, place = Box(value), f".inside{place}"
            case "entity":
                value, place = Flight(id=1, tags=value), f".tags{place}"
            case "tuples":
                value, place = {(1, 2): 3, (1, 3): value}, f"[1].value{place}"
            case "row":
                value = IteratorResult(SimpleResultMetaData(["a", "b"]), iter([(1, value)])).one()
                place = f".b{place}"
    return value, place.removeprefix(".")


@quick
@given(planted())
def test_what_has_no_form_is_found_where_it_stands(made: tuple[Any, str]) -> None:
    value, place = made
    with pytest.raises(JobFailed, match="no JSON form") as caught:
        encode(value, LIMIT)
    assert f"no JSON form: {place} is " in str(caught.value)


def test_a_place_is_told_within_bounds_and_what_contains_itself_is_found() -> None:
    circle: dict[str, Any] = {"a": []}
    circle["a"].append(circle)
    with pytest.raises(JobFailed, match=r"a\[0\] contains itself"):
        encode(circle, LIMIT)
    with pytest.raises(JobFailed) as caught:
        encode({"k" * 100_000: {"\ud800" * 100_000: object()}}, LIMIT)
    assert len(str(caught.value)) < 2000
    str(caught.value).encode()


def test_what_a_model_can_not_write_is_refused_without_its_words() -> None:
    """They may hold what it was about."""

    class Odd(BaseModel):
        n: int = 1

        @computed_field
        def secret(self) -> str:
            raise ValueError("sk_live_hunter2")

    with pytest.raises(JobFailed, match=r"a\[0\]") as caught:
        encode({"a": [Odd()]}, LIMIT)
    assert "hunter2" not in str(caught.value)


def test_ready_json_stands_in_models_and_boxes_and_beside_what_is_wrong() -> None:
    assert encode(Box(Ready(b"[1]"), [Ready(b"2")]), LIMIT) == b'{"inside":[1],"more":[2]}'
    assert encode(Bag(things={"a": Ready(b"[1]")}), LIMIT) == b'{"things":{"a":[1]}}'
    assert encode(Open(n=2, other={"a": 1}), LIMIT) == b'{"n":2,"other":{"a":1}}'
    with pytest.raises(JobFailed, match=r"\[1\] is an object"):
        encode([Ready(b"1"), object()], LIMIT)


# Parameters


def spec_of(function: Any) -> JobSpec:
    service = Service(settings=Settings.from_env({}))
    service.job(name="given")(function)
    [spec] = service.jobs
    assert isinstance(spec, JobSpec)
    return spec


class Stay(BaseModel):
    kind: Literal["stay"]
    nights: int
    secret: SecretStr = Field(SecretStr("-"), exclude=True)

    @computed_field
    def weeks(self) -> float:
        return self.nights / 7

    @field_validator("nights")
    @classmethod
    def _more(cls, nights: int) -> int:
        return nights + 1


class Trip(BaseModel):
    kind: Literal["trip"]
    to: str = Field(alias="dest")


Double = BeforeValidator(lambda n: n * 2)


async def everything(
    password: SecretStr | None = None,
    doubled: Annotated[int, Double] = 1,
    more: Annotated[int, AfterValidator(lambda n: n + 1)] = 1,
    options: Json[dict[str, int]] | None = None,
    from_: Annotated[str, Field(validation_alias=AliasChoices("from", "origin"))] = "",
    first: Annotated[int, Field(validation_alias=AliasPath("several", 0))] = 0,
    hidden: Annotated[str, Field(exclude=True)] = "",
    exact: Annotated[date | None, Strict()] = None,
    plan: Annotated[Stay | Trip | None, Field(discriminator="kind")] = None,
    either: int | str = 0,
    price: Decimal = Decimal(0),
    moment: datetime | None = None,
    data: bytes = b"",
    anything: Any = None,
) -> None: ...


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ({"password": "hunter2"}, {"password": SecretStr("hunter2")}),
        ({"doubled": 3}, {"doubled": 6}),
        ({"more": 3}, {"more": 4}),
        ({"options": '{"a":1}'}, {"options": {"a": 1}}),
        ({"from": "JFK"}, {"from_": "JFK"}),
        ({"origin": "JFK"}, {"from_": "JFK"}),
        ({"several": [7, 8]}, {"first": 7}),
        ({"hidden": "x"}, {"hidden": "x"}),
        ({"exact": "2026-11-22"}, {"exact": date(2026, 11, 22)}),
        ({"plan": {"kind": "trip", "dest": "JFK"}}, {"plan": Trip(kind="trip", dest="JFK")}),
        ({"either": "7"}, {"either": "7"}),
        ({"price": "1.10"}, {"price": Decimal("1.10")}),
        ({"moment": "2026-11-22T09:00:00+02:00"}, {"moment": datetime(2026, 11, 22, 7, tzinfo=UTC)}),
        ({"data": "é"}, {"data": "é".encode()}),
        ({"anything": {"a": [1, 1.0, None, 2**60, "\x00"]}}, {"anything": {"a": [1, 1.0, None, 2**60, "\x00"]}}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_parameter_arrives_as_one_validation_of_what_was_sent_makes_it(
    sent: dict[str, Any], arrives: dict[str, Any]
) -> None:
    spec = spec_of(everything)
    text = spec.validate(sent)
    assert json.loads(text) == sent, "what was sent is what is stored"
    assert {name: spec.arguments(text)[name] for name in arrives} == arrives


def test_a_nested_model_is_validated_once_and_keeps_what_it_would_not_write() -> None:
    spec = spec_of(everything)
    plan = spec.arguments(spec.validate({"plan": {"kind": "stay", "nights": 6, "secret": "hunter2"}}))["plan"]
    assert (plan.nights, plan.weeks, plan.secret.get_secret_value()) == (7, 1.0, "hunter2")


def test_values_of_python_are_given_as_a_client_would_send_them() -> None:
    """As a test of the app does."""
    spec = spec_of(everything)
    given = {"password": SecretStr("hunter2"), "price": Decimal("1.10"), "exact": date(2026, 11, 22)}
    assert {name: spec.arguments(spec.validate(given))[name] for name in given} == given
    with pytest.raises(InvalidParams, match="no JSON form"):
        spec.validate({"anything": object()})
    with pytest.raises(InvalidParams, match="no JSON form"):
        spec.validate({"anything": [float("nan")]})


def test_mistakes_are_told_within_bounds() -> None:
    spec = spec_of(everything)
    with pytest.raises(InvalidParams) as caught:
        spec.validate({f"{n}{'x' * 10_000}": 1 for n in range(1000)})
    assert len(json.dumps(caught.value.problem())) < 20_000
