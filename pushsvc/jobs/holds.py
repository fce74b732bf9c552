"""Which leases a worker holds, in memory that somebody else can read: a thread of its own, or its parent.

The worker writes, and writes only when a job starts or ends; who reads looks when it likes. So it costs a job two
writes of 100 bytes, and wakes nobody. A place that is being written when it is read has a wrong checksum, and is read
again.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ..domain import JobId

OnLimit = Literal["failed", "retried", "expired"]
"""What a job comes to that has reached its time-out or its deadline: whether it has another try is known."""

_ON_LIMIT: tuple[OnLimit, ...] = ("failed", "retried", "expired")
_NAME = 64
_HEAD = struct.Struct(f"<dd26s{_NAME}s")
_BEAT = struct.Struct("<d")
_CHECKSUM = struct.Struct("<I")
_PLACE = struct.Struct("<26siddBB")
_SIZE = _CHECKSUM.size + _PLACE.size
_READ_AGAIN = 5
LENT = 256
"""Jobs that have lent their place, as they wait for others, hold leases besides: so many of them are kept."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that a worker holds. `until` is when it is to be given up, by `time.monotonic()`; `timeout` in seconds,
    `tries` those that have failed, with this one."""

    job: JobId
    version: int
    until: float
    timeout: float
    on_limit: OnLimit
    tries: int


class Holds:
    """One worker's leases: at most `places` at a time. All moments are `time.monotonic()`, which processes of one
    machine share."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory
        # They are popped from the end: the first ones are taken first.
        self._free = list(reversed(range((len(memory) - _HEAD.size) // _SIZE)))
        self._taken: dict[str, tuple[int, Held]] = {}

    @classmethod
    def of_this_process(cls, places: int) -> Holds:
        """For a thread to read."""
        return cls(bytearray(_HEAD.size + (places + LENT) * _SIZE))

    @classmethod
    def shared(cls, places: int) -> tuple[Holds, int]:
        """For another process to write to: what it opens with `opened`, and is to be closed here then."""
        file = _unnamed_file()
        size = _HEAD.size + (places + LENT) * _SIZE
        os.ftruncate(file, size)
        return cls(mmap.mmap(file, size)), file

    @classmethod
    def opened(cls, file: int) -> Holds:
        """What a parent has made."""
        return cls(mmap.mmap(file, os.fstat(file).st_size))

    # The worker writes

    def begin(self, worker: str) -> None:
        """The worker of this name begins."""
        name = worker.encode()[:_NAME].ljust(_NAME, b"\0")
        self._memory[_HEAD.size - _NAME : _HEAD.size] = name
        self.beat()

    def beat(self) -> None:
        """The event loop turns."""
        _BEAT.pack_into(self._memory, 0, time.monotonic())

    def stopping(self) -> None:
        """From now on the worker has its time to drain; the first time counts."""
        if math.isinf(self.stopping_since):
            _BEAT.pack_into(self._memory, _BEAT.size, time.monotonic())

    def hold(self, held: Held) -> None:
        """Keep this lease."""
        if held.job in self._taken:
            self.drop(held.job)
        if self._free:
            place = self._free.pop()
            self._taken[held.job] = (place, held)
            self._write(place, held)

    def keep_on(self, job: JobId) -> None:
        """The job itself has ended: the lease is kept until that is stored, however long it takes."""
        if job in self._taken:
            place, held = self._taken[job]
            self._write(place, held, math.inf)

    def drop(self, job: JobId) -> None:
        """Keep it no more."""
        place, _ = self._taken.pop(job, (None, None))
        if place is not None:
            at = _HEAD.size + place * _SIZE
            self._memory[at : at + _SIZE] = bytes(_SIZE)
            self._free.append(place)

    def _write(self, place: int, held: Held, until: float | None = None) -> None:
        data = _PLACE.pack(
            held.job.encode(),
            held.version,
            held.until if until is None else until,
            held.timeout,
            _ON_LIMIT.index(held.on_limit),
            min(held.tries, 255),
        )
        at = _HEAD.size + place * _SIZE
        self._memory[at : at + _SIZE] = _CHECKSUM.pack(zlib.crc32(data)) + data

    def blame(self, job: str | None) -> None:
        """This job blocks the event loop; None if that is not known, or nobody does."""
        at = 2 * _BEAT.size
        self._memory[at : at + 26] = (job or "").encode().ljust(26, b"\0")

    # Who keeps the leases reads

    @property
    def worker(self) -> str:
        return self._head()[3].rstrip(b"\0").decode(errors="replace")

    @property
    def silent(self) -> float:
        """For how many seconds the event loop has not turned; 0 before the worker has begun."""
        beat = self._head()[0]
        return max(0.0, time.monotonic() - beat) if beat else 0.0

    @property
    def stopping_since(self) -> float:
        """When the worker was told to stop; infinite if it was not."""
        return self._head()[1] or math.inf

    @property
    def blamed(self) -> str | None:
        return self._head()[2].rstrip(b"\0").decode(errors="replace") or None

    def held(self) -> list[Held]:
        """All leases that the worker holds."""
        places = range((len(self._memory) - _HEAD.size) // _SIZE)
        return [held for held in map(self._read, places) if held is not None]

    def _head(self) -> tuple[float, float, bytes, bytes]:
        beat, stopping, blamed, worker = _HEAD.unpack_from(self._memory, 0)
        return beat, stopping, blamed, worker

    def _read(self, place: int) -> Held | None:
        at = _HEAD.size + place * _SIZE
        for _ in range(_READ_AGAIN):
            data = bytes(self._memory[at : at + _SIZE])
            if not any(data):
                return None
            checksum, data = data[: _CHECKSUM.size], data[_CHECKSUM.size :]
            if checksum == _CHECKSUM.pack(zlib.crc32(data)):
                job, version, until, timeout, on_limit, tries = _PLACE.unpack(data)
                return Held(JobId(job.decode()), version, until, timeout, _ON_LIMIT[on_limit], tries)
        return None


def _unnamed_file() -> int:
    """One that is gone when the last process has closed it; in memory where that can be, as a container may have no
    file system to write to."""
    in_memory: Callable[[str], int] | None = getattr(os, "memfd_create", None)
    if in_memory is not None:
        return in_memory("pushsvc-holds")
    file, path = tempfile.mkstemp(prefix="pushsvc-holds-")
    os.unlink(path)
    return file


def first_to_go(held: Iterable[Held]) -> float:
    """When the first of these leases is to be given up."""
    return min((each.until for each in held), default=math.inf)
