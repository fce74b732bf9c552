"""One run per data directory: a lock that the kernel drops with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from ..errors import SettingsError, Unavailable

# A reader that only asks whether a run is live holds a shared lock for microseconds.
_READER_PATIENCE = 0.5


class DirectoryLock:
    """An exclusive lock on a directory, through the file `lock` in it, which names the holder's pid."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock, or keep it. Raises Unavailable naming the holder if another run has it."""
        if self._file is not None:
            return
        path = self._directory / "lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError:
            raise SettingsError(f"{self._directory} belongs to another user; use --data-dir") from None
        try:
            self._take(file)
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Give the lock back, if held. The file stays: removing it would let two hold it."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def _take(self, file: int) -> None:
        deadline = time.monotonic() + _READER_PATIENCE
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise Unavailable(
                        f"another pushsvc is running on {self._directory} (pid {holder}); use --data-dir"
                    ) from None
            time.sleep(0.01)


def is_locked(directory: Path) -> bool:
    """Whether a live run holds the directory's lock."""
    try:
        file = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    with contextlib.closing(os.fdopen(file)):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
