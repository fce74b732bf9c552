"""Whether the author's code has changed: what `dev --reload` goes by."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import SettingsError


class Changes:
    """While entered, watches the Python files below a directory, but for what lies in `besides`.

    `wake` is called from a thread of its own at each change. Raises SettingsError where watchfiles is not installed.
    """

    def __init__(self, directory: Path, wake: Callable[[], None], besides: Path) -> None:
        try:
            import watchfiles
        except ImportError:
            raise SettingsError("--reload needs watchfiles: pip install 'pushsvc[embedded]'") from None
        self._watchfiles = watchfiles
        self._directory = directory
        self._filter = watchfiles.PythonFilter(ignore_paths=[besides.resolve()])
        self._wake = wake
        self._over = threading.Event()
        self._seen = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()

    def taken(self) -> bool:
        """Whether something has changed since the last call."""
        changed = self._seen.is_set()
        self._seen.clear()
        return changed

    def _watch(self) -> None:
        watching = self._watchfiles.watch(
            self._directory, watch_filter=self._filter, stop_event=self._over, raise_interrupt=False, rust_timeout=500
        )
        for _ in watching:
            self._seen.set()
            self._wake()
