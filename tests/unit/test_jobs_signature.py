"""What can't be a job is refused when its module loads, in one sentence: the job, the parameter, what to do."""

from __future__ import annotations

import functools
import re
import typing
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from sqlalchemy.pool import NullPool

from pushsvc import JobContext, Service
from pushsvc.errors import SettingsError
from pushsvc.jobs import JobSpec, params_model
from pushsvc.settings import Settings

if TYPE_CHECKING:
    from decimal import Decimal as Price


def spec_of(function: Any, **options: Any) -> JobSpec:
    service = Service(settings=Settings.from_env({}))
    service.job(**options)(function)
    [spec] = service.jobs
    assert isinstance(spec, JobSpec)
    return spec


class Reports:
    def report(self, origin: str) -> None: ...

    async def later(self, origin: str) -> None: ...

    @classmethod
    def of_class(cls, origin: str) -> None: ...

    @staticmethod
    def alone(origin: str) -> None: ...

    def __call__(self, origin: str) -> None: ...


async def plain(origin: str) -> None: ...


@functools.wraps(plain)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return plain(*args, **kwargs)


async def agen(origin: str) -> AsyncIterator[int]:
    yield 1


def gen(origin: str) -> Iterator[int]:
    yield 1


def hidden(price: Price) -> None: ...
def no_word(price: "Nothing.At.All") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def two_contexts(ctx: JobContext, other: JobContext) -> None: ...
def named_and_typed(ctx, other: JobContext) -> None: ...  # type: ignore[no-untyped-def]
def none(n: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013
def no_int(n: int = "x") -> None: ...  # type: ignore[assignment]
def too_small(n: Annotated[int, Field(gt=3)] = 1) -> None: ...
def field(n: int = Field("x")) -> None: ...  # type: ignore[assignment]
def pool(fine: int, pool: NullPool) -> None: ...
def calls(fine: int, call: Callable[[], int]) -> None: ...
def variadic(*numbers: int) -> None: ...
def keywords(**numbers: int) -> None: ...
def positional(n: int, /) -> None: ...


REFUSED: dict[str, tuple[Any, str]] = {
    "method": (Reports.report, "is a method, and nobody gives it self; write it outside"),
    "async method": (Reports.later, "is a method, and nobody gives it self"),
    "class method": (Reports.__dict__["of_class"], "is a method; write it outside"),
    "static method": (Reports.__dict__["alone"], "is a method; write it outside"),
    "object": (Reports(), "is an object with __call__; write a function that calls it"),
    "class": (Reports, "is a class; write a function"),
    "partial": (functools.partial(plain, "JFK"), r"is a functools\.partial; write a function that calls it"),
    "nothing": (7, "is no function; put @service.job right above"),
    "async generator": (agen, "is an async generator; return one result, such as a list"),
    "generator": (gen, "is a generator; return one result, such as a list"),
    "plain wrapper": (wrapped, "is an async def inside a plain wrapper.*; make it async too"),
    "TYPE_CHECKING": (hidden, r"the type of price, Price, is not known.*; .*outside of `if TYPE_CHECKING:`"),
    "no word": (no_word, "the type of price, .*Nothing.At.All.*, is not known"),
    "two contexts": (two_contexts, "ctx and other both take the JobContext; keep one"),
    "two by name": (named_and_typed, "ctx and other both take the JobContext; keep one"),
    "None": (none, r"the default of n is None, which its type int is not; write n: int \| None = None"),
    "no int": (no_int, "the default of n does not fit its type; write one that does"),
    "too small": (too_small, "the default of n does not fit its type; .*greater than 3"),
    "field": (field, "the default of n does not fit its type"),
    "pool": (pool, "the type of pool has no JSON Schema; write one"),
    "callable": (calls, "the type of call has no JSON Schema; write one"),
    "*": (variadic, r"\*numbers: .*can't be given by name; name each parameter"),
    "**": (keywords, r"\*\*numbers: .*can't be given by name; name each parameter"),
    "positional": (positional, "n: .*int.* can't be given by name; name each parameter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_a_job_is_refused_in_a_sentence(case: str) -> None:
    function, sentence = REFUSED[case]
    with pytest.raises(SettingsError, match=f"job given: (it )?{sentence}") as caught:
        spec_of(function, name="given")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_lambda_needs_a_name_and_a_decorated_method_is_found_in_its_class() -> None:
    with pytest.raises(SettingsError, match="name"):
        spec_of(lambda: None)
    assert spec_of(lambda n: n, name="a").arguments('{"n":1}') == {"n": 1}
    service = Service(settings=Settings.from_env({}))
    with pytest.raises(SettingsError, match="job report: it is a method"):

        class Late:
            @service.job
            def report(self) -> None: ...

    assert len(service.jobs) == 0


def test_what_can_be_called_is_a_job() -> None:
    """Bound to its object, or wrapped by one of its kind, or defined within another function."""

    @functools.wraps(plain)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await plain(*args, **kwargs)

    def local(origin: str) -> None: ...

    for function in (Reports().report, Reports.of_class, Reports.alone, around, local):
        assert spec_of(function, name="given").arguments('{"origin":"JFK"}') == {"origin": "JFK"}
    assert spec_of(around, name="given").is_async


UNSET = object()


class Point(BaseModel):
    x: int
    parent: Optional[Point] = None  # noqa: UP045


@dataclass
class Size:
    width: int


Shape = Annotated[
    typing.Union["Circle", "Square"],
    Field(discriminator="kind"),
]


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float


def test_types_that_refer_to_one_another_are_read_where_they_were_written() -> None:
    def job(point: Point, size: Size, shape: Shape, ctx: JobContext | None = None, n: int = Field(3, gt=0)) -> Price:  # type: ignore[empty-body]  # its type is nowhere when this runs
        ...

    spec = spec_of(job)
    assert spec.context == "ctx"
    given = '{"point":{"x":1,"parent":{"x":2}},"size":{"width":3},"shape":{"kind":"square","side":1}}'
    arguments = spec.arguments(given)
    assert arguments == {
        "point": Point(x=1, parent=Point(x=2)),
        "size": Size(3),
        "shape": Square(side=1),
        "n": 3,
    }


def test_a_default_in_an_annotation_is_one() -> None:
    def job(n: Annotated[int, Field(default=3)], m: Annotated[int, Field(default_factory=lambda: 4)]) -> None: ...

    assert spec_of(job).arguments("{}") == {"n": 3, "m": 4}


def test_a_factory_is_not_called_when_the_module_loads() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    def job(n: int = Field(default_factory=make)) -> None: ...

    spec = spec_of(job)
    assert made == []
    text = spec.validate({})
    assert text == "{}"
    assert [spec.arguments(text)["n"] for _ in range(2)] == [1, 2], "at the start of each attempt"


def test_nothing_is_warned_of_that_an_author_could_not_help() -> None:
    def job(day: Any = UNSET, schema: int = 1, ctx: Any = None) -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, context = params_model("job", job)
    assert context == "ctx"
    assert re.search("day", str(model.model_fields))
