"""Random programs for the tests of `pushsvc.queries`: plain data, which says what some jobs do step by step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from hypothesis import strategies as st

JOBS = 3
SLOTS = 3
"""How many queries each job can ask for in equal form. The last of them fails."""

Kind = Literal["load", "rows", "pick", "count", "sum", "text", "entity", "equal", "equal_pluck"]
Mode = Literal["foreground", "snapshot", "raise"]


class Step:
    """Something that a job does. `which` is the number of one of its promises, modulo how many there are."""

    def __str__(self) -> str:
        values = ((each.name, getattr(self, each.name)) for each in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"


@dataclass(frozen=True)
class Ask(Step):
    """Ask for something that takes `ms` in the server; so often. Equal queries are told apart by `slot`."""

    kind: Kind
    ms: int = 0
    fails: bool = False
    times: int = 1
    slot: int = 0


@dataclass(frozen=True)
class Await(Step):
    """Await a promise: `here`, in a `task` beside, or for `ms` milliseconds."""

    which: int
    how: Literal["here", "task", "timeout"] = "here"
    ms: int = 0


@dataclass(frozen=True)
class Then(Step):
    """Make something of a promise's answer: at once, in a coroutine, or an error."""

    which: int
    what: Literal["wrap", "later", "fail"] = "wrap"


@dataclass(frozen=True)
class Cancel(Step):
    """Cancel a promise."""

    which: int


@dataclass(frozen=True)
class CancelTask(Step):
    """Cancel a task that awaits, once or several times."""

    which: int
    times: int = 1


@dataclass(frozen=True)
class Write(Step):
    """Add a row to the ledger, in a transaction."""

    how: Literal["execute", "session", "session_fails"] = "execute"


@dataclass(frozen=True)
class Read(Step):
    """Count what the job has written, and await it; or take long to count it, and await it later or never."""

    slowly: bool = False


@dataclass(frozen=True)
class Pause(Step):
    """Let others go on, for so many turns of the loop or milliseconds."""

    turns: int = 1
    ms: int = 0


@dataclass(frozen=True)
class End(Step):
    """Close the database of a job, which may be another one, or cancel its task."""

    job: int
    how: Literal["close", "cancel"] = "close"


@dataclass(frozen=True)
class InTransaction(Step):
    """Do something in a transaction, which is a savepoint within another."""

    body: tuple[Step, ...]
    mode: Mode = "foreground"
    ending: Literal["commit", "error", "roll_back"] = "commit"

    def __str__(self) -> str:
        return f"InTransaction({self.mode!r}, ending={self.ending!r}):\n" + shown(self.body)


@dataclass(frozen=True)
class Plan:
    """One job. In the end it awaits everything, if it is `tidy`."""

    steps: tuple[Step, ...]
    tidy: bool = True
    inline: bool = False

    def __str__(self) -> str:
        return f"job(tidy={self.tidy}, inline={self.inline}):\n" + shown(self.steps)


@dataclass(frozen=True)
class Program:
    executor: int
    own: int
    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        return f"pool(executor={self.executor}, own={self.own}):\n" + shown(self.plans)


def shown(parts: Sequence[object]) -> str:
    return textwrap.indent("\n".join(map(str, parts)) or "pass", "    ")


WHICH = st.integers(0, 9)
KINDS: tuple[Kind, ...] = ("load", "rows", "pick", "count", "sum", "text", "entity", "equal", "equal", "equal_pluck")
ONE_STEP: dict[str, st.SearchStrategy[Step]] = {
    "ask": st.builds(
        Ask,
        st.sampled_from(KINDS),
        st.sampled_from((0, 0, 1, 5)),
        st.sampled_from((False, False, False, False, False, True)),
        st.sampled_from((1, 1, 1, 2, 9, 25)),
        st.sampled_from((0, 0, 1, SLOTS - 1)),
    ),
    "await": st.builds(Await, WHICH, st.sampled_from(("here", "here", "task", "task", "timeout")), st.integers(0, 6)),
    "then": st.builds(Then, WHICH, st.sampled_from(("wrap", "later", "fail"))),
    "cancel": st.builds(Cancel, WHICH),
    "cancel_task": st.builds(CancelTask, WHICH, st.integers(1, 3)),
    "pause": st.builds(Pause, st.integers(1, 12), st.sampled_from((0, 0, 2))),
    "write": st.builds(Write, st.sampled_from(("execute", "session", "session_fails"))),
    "read": st.builds(Read, st.booleans()),
    "end": st.builds(End, st.integers(0, JOBS - 1), st.sampled_from(("close", "cancel"))),
}
ONCE = ["then", "cancel", "cancel_task", "pause", "read"]
USUAL = [*["ask"] * 5, *["await"] * 3, *["transaction"] * 2, *ONCE]
"""As often as each is to come, but for the end, which is the end of all that comes after it."""


@st.composite
def bodies(draw: st.DrawFn, *, least: int = 0, most: int = 5, depth: int = 2) -> tuple[Step, ...]:
    """The steps of a job, or of a transaction in it."""
    inside = depth < 2
    names = draw(st.lists(st.sampled_from([*USUAL, "write" if inside else "ask"]), min_size=least, max_size=most))
    if draw(st.integers(0, 9)) == 0:
        names.append("end")
    return tuple(draw(_transactions(depth) if name == "transaction" else ONE_STEP[name]) for name in names)


def _transactions(depth: int) -> st.SearchStrategy[Step]:
    if not depth:
        return ONE_STEP["ask"]
    return st.builds(
        InTransaction,
        bodies(least=1, depth=depth - 1),
        st.sampled_from(("foreground", "foreground", "foreground", "snapshot", "raise")),
        st.sampled_from(("commit", "commit", "commit", "error", "roll_back")),
    )


PLANS = st.builds(
    Plan, bodies(least=2, most=9), st.sampled_from((True, True, False)), st.sampled_from((False, False, False, True))
)
PROGRAMS = st.builds(
    Program,
    st.sampled_from((1, 1, 2, 3)),
    st.sampled_from((1, 1, 2, 3)),
    st.lists(PLANS, min_size=1, max_size=JOBS).map(tuple),
)
