"""The short form of `make soak`: a fault of each kind within seconds, and then the audit.

Its seed is fixed. What it finds, `python -m tests.soak` finds more often.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from ..acceptance.harness import nothing_left
from .plan import FAULTS, Plan
from .run import soak

SHORT = Plan.of(seed=4, seconds=10.0, jobs=12.0, every=0.5)


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="soak"))
    path.chmod(0o711)
    with nothing_left(path):
        yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.timeout(400)
def test_nothing_is_lost_duplicated_or_disordered_under_faults(directory: Path) -> None:
    """Every subscriber has every event once and in order, and every job one end, whatever dies meanwhile."""
    outcome = asyncio.run(soak(SHORT, directory))
    print("\n".join(outcome.lines()))
    for log in sorted(directory.glob("*.log")):
        print(f"== {log.name}\n{log.read_text()}")
    assert outcome.account.problems + outcome.problems == []
    assert outcome.clean
    assert outcome.whole
    assert set(outcome.faults) == set(FAULTS), "each of them was done"
    assert outcome.account.delivered > len(SHORT.orders)
    assert {"succeeded", "failed", "cancelled"} <= set(outcome.statuses)


def test_the_seed_says_what_happens_and_when() -> None:
    """The same seed, the same faults, load and connections; another seed, others."""
    again, other = Plan.of(seed=4, seconds=10.0, jobs=12.0, every=0.5), Plan.of(seed=5, seconds=10.0)
    assert again == SHORT
    assert other != replace(SHORT, seed=5)
    for member in SHORT.members:
        legs = list(islice(SHORT.legs(member), 50))
        assert list(islice(again.legs(member), 50)) == legs
        assert list(islice(other.legs(member), 50)) != legs
