"""What a worker's parent does for it: it keeps the leases of a worker whose event loop does not turn."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence

from ..jobs import Holds, OwnLoop
from ..service import Service

_LAST_WORDS = 6.0
"""Seconds for storing what becomes of the jobs of a process that was ended."""


class LeaseKeeper:
    """The companion of one worker process: it reads which leases that holds, in memory that both see."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._holds, self._file = Holds.shared(service.settings.max_jobs)
        self._loop = OwnLoop("keeper", self._keep)
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False

    @property
    def argv(self) -> Sequence[str]:
        return ("--holds", str(self._file))

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._file,)

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Watch over it from now on."""
        os.close(self._file)
        self._process = process
        self._loop.start()

    def stopping(self) -> None:
        """From now on its jobs have the time to drain, whether it hears of that or not."""
        self._holds.stopping()

    def ended(self) -> None:
        """Watch no longer; what is to become of its jobs, if they were taken from it, is still being stored."""
        if self._process is None:
            os.close(self._file)
        elif not self._ending:
            self._loop.stop(0)

    def join(self) -> None:
        if self._process is not None:
            self._loop.join(_LAST_WORDS)

    async def _keep(self) -> None:
        await self._service.keep(self._holds, self._end, end_first=True)

    def _end(self) -> None:
        self._ending = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
