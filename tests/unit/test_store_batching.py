"""The batcher: what comes while a batch is being written is the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pushsvc.errors import Unavailable
from pushsvc.store.batching import Batcher

from ..contract.kit import soon


class Writes:
    """Remembers each batch, and holds it until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.begun.set()
        await self.go.wait()
        if -1 in items:
            raise ValueError("a bad item")
        return [item * 10 for item in items]


async def test_what_comes_while_a_batch_is_written_is_the_next_batch_in_order() -> None:
    writes = Writes(held=True)
    batcher = Batcher("test", writes)
    first = batcher.put(0)
    await writes.begun.wait()
    rest = [batcher.put(n) for n in range(1, 6)]
    writes.go.set()
    assert await soon(asyncio.gather(first, *rest)) == [0, 10, 20, 30, 40, 50]
    assert writes.batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_batch_is_never_larger_than_its_limit() -> None:
    writes = Writes()
    batcher = Batcher("test", writes, limit=3)
    assert await soon(asyncio.gather(*(batcher(n) for n in range(8)))) == [n * 10 for n in range(8)]
    assert writes.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_one_bad_item_does_not_fail_the_others() -> None:
    batcher = Batcher("test", Writes())
    answers = await soon(asyncio.gather(*(batcher(n) for n in (1, -1, 2)), return_exceptions=True))
    assert answers[0] == 10
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 20


async def test_without_the_database_everybody_is_told_so_at_once() -> None:
    calls = 0

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise Unavailable

    batcher = Batcher("test", write)
    answers = await soon(asyncio.gather(*(batcher(n) for n in range(5)), return_exceptions=True))
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert calls == 1, "not once more for each"


async def test_who_no_longer_waits_does_not_disturb_the_others() -> None:
    writes = Writes(held=True)
    batcher = Batcher("test", writes)
    waiting = [asyncio.create_task(batcher(n)) for n in range(3)]
    await writes.begun.wait()
    waiting[1].cancel()
    writes.go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert [await soon(waiting[n]) for n in (0, 2)] == [0, 20]


async def test_items_handed_over_after_a_failed_batch_are_still_written() -> None:
    batcher = Batcher("test", Writes())
    with pytest.raises(ValueError):
        await soon(batcher(-1))
    assert await soon(batcher(4)) == 40


async def test_who_waits_behind_a_batch_that_cannot_be_written_now_is_told_with_it() -> None:
    """It has waited as long; a try of its own would take as long again."""
    began, go = asyncio.Event(), asyncio.Event()
    calls: list[list[int]] = []

    async def write(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        began.set()
        await go.wait()
        raise Unavailable

    batcher = Batcher("test", write)
    first = batcher.put(0)
    await began.wait()
    behind = [batcher.put(n) for n in range(1, 4)]
    go.set()
    answers = await soon(asyncio.gather(first, *behind, return_exceptions=True))
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert calls == [[0]]


async def test_the_database_going_away_amid_a_bad_batch_is_not_asked_once_more_for_each() -> None:
    calls = 0

    async def write(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise ValueError("a bad item") if calls == 1 else Unavailable

    batcher = Batcher("test", write)
    answers = await soon(asyncio.gather(*(batcher(n) for n in range(64)), return_exceptions=True))
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert calls == 2


async def test_an_answer_too_few_is_an_error_and_nobody_waits_for_ever() -> None:
    async def write(items: Sequence[int]) -> list[int]:
        return []

    with pytest.raises(ValueError, match="0 answers to 1 items"):
        await soon(Batcher("test", write)(1))


async def test_a_batcher_that_is_cancelled_leaves_nobody_waiting() -> None:
    writes = Writes(held=True)
    batcher = Batcher("test", writes)
    first = batcher.put(0)
    await writes.begun.wait()
    behind = batcher.put(1)
    assert batcher._task is not None
    batcher._task.cancel()
    await soon(asyncio.wait([first, behind]))
    assert first.cancelled()
    assert behind.cancelled()
