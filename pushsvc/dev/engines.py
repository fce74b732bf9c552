"""The engines of one run: a PostgreSQL and a Valkey where no URL is set, and a secret where there is none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from ..errors import PushsvcError, SettingsError, Unavailable
from ..settings import Settings
from .account import private_directory
from .child import describe_exit
from .engine import Engine
from .lock import DirectoryLock, is_locked
from .postgres import EmbeddedPostgres
from .valkey import EmbeddedValkey

_RETRY_AFTER = 1.0


def _silently(line: str) -> None:
    pass


class Engines:
    """What `settings` lack, started on `data_dir` and stopped with the run. For one start and one stop.

    Progress goes to `say`, line by line. `stop()` from another thread ends a start in progress.
    """

    def __init__(self, data_dir: Path, settings: Settings, say: Callable[[str], None] = _silently) -> None:
        self.data_dir = data_dir.resolve()
        self.postgres: EmbeddedPostgres | None = None
        self.valkey: EmbeddedValkey | None = None
        self._settings = settings
        self._say_line = say
        self._saying = threading.Lock()
        self._cancel = threading.Event()
        self._lock = DirectoryLock(self.data_dir)
        self._turn = threading.Lock()

    def lock(self) -> None:
        """Claim the data directory for this run. Raises Unavailable if another one has it."""
        private_directory(self.data_dir)
        self._lock.acquire()
        self._env_file.unlink(missing_ok=True)  # left by a run that was killed
        ignore = self.data_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def start(self) -> None:
        """Start what is missing, side by side; return when all of it answers."""
        with self._turn:
            if self._cancel.is_set():
                raise Unavailable("the engines were stopped before they started")
            try:
                self.lock()
                self._add_secret()
                self._start_all(self._missing())
                _write_private(self._env_file, "".join(f"{k}={_quoted(v)}\n" for k, v in self.environment().items()))
            except BaseException:
                self._end()
                raise

    def keep(self) -> None:
        """From now on start an engine again when it dies, until `stop()`."""
        for engine in self._running():
            threading.Thread(target=self._keep, args=(engine,), name=f"keep {engine.title}", daemon=True).start()

    def stop(self) -> None:
        """Stop what was started, also while it is still starting, and give the data directory free."""
        self._cancel.set()
        with self._turn:
            self._end()

    @property
    def settings(self) -> Settings:
        """The settings, completed by the engines' URLs and the secret."""
        return self._settings

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to use these engines."""
        found = {
            "PUSHSVC_DATABASE_URL": self._settings.need("database_url"),
            "PUSHSVC_SECRET": self._settings.need("secret"),
        }
        return found if self._settings.inline else found | {"PUSHSVC_REDIS_URL": self._settings.need("redis_url")}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _env_file(self) -> Path:
        return self.data_dir / "env"

    def _running(self) -> list[Engine]:
        return [engine for engine in (self.postgres, self.valkey) if engine is not None]

    def _missing(self) -> list[Engine]:
        if self._settings.database_url is None:
            self.postgres = EmbeddedPostgres(self.data_dir / "postgres", cancel=self._cancel)
        if self._settings.redis_url is None and not self._settings.inline:
            self.valkey = EmbeddedValkey(self.data_dir / "valkey", cancel=self._cancel)
        return self._running()

    def _start_all(self, engines: list[Engine]) -> None:
        if not engines:
            return
        with ThreadPoolExecutor(len(engines)) as threads:
            try:
                starts = [threads.submit(self._start, engine) for engine in engines]
                for start in wait(starts, return_when=FIRST_EXCEPTION).done:
                    start.result()
            except BaseException:
                self._cancel.set()  # one failed, or Ctrl-C: the others need not come up any more
                raise
        found = {"database_url": self.postgres, "redis_url": self.valkey}
        urls = {name: SecretStr(engine.url) for name, engine in found.items() if engine is not None}
        self._settings = self._settings.model_copy(update=urls)

    def _start(self, engine: Engine) -> None:
        begun = time.monotonic()
        if isinstance(engine, EmbeddedPostgres) and not engine.created:
            self._say(f"{engine.title}: creating the cluster …")
        engine.start()
        self._say(f"{engine.title}: ready ({time.monotonic() - begun:.1f} s)")

    def _keep(self, engine: Engine) -> None:
        while True:
            status = engine.wait()
            if self._cancel.is_set():
                return
            if status is not None:
                self._say(f"{engine.title}: died ({describe_exit(status)}), starting it again")
            try:
                self._start(engine)
            except (PushsvcError, OSError) as error:
                if self._cancel.wait(_RETRY_AFTER):
                    return
                self._say(f"{engine.title}: {error}")

    def _add_secret(self) -> None:
        if self._settings.secret is not None:
            return
        file = self.data_dir / "secret"
        secret = file.read_text().strip() if file.exists() else ""
        if not secret:
            secret = secrets.token_urlsafe(32)
            _write_private(file, secret + "\n")
        self._settings = self._settings.model_copy(update={"secret": SecretStr(secret)})

    def _end(self) -> None:
        if not self._lock.held:
            return
        self._env_file.unlink(missing_ok=True)
        with contextlib.ExitStack() as stops:  # each of them, even if one fails
            stops.callback(self._lock.release)
            for engine in self._running():
                stops.callback(engine.stop)

    def _say(self, line: str) -> None:
        with self._saying:
            self._say_line(line)


def read_environment(data_dir: Path) -> dict[str, str]:
    """The environment of the run that is live on `data_dir`; empty if there is none."""
    if not is_locked(data_dir):
        return {}
    try:
        lines = (data_dir / "env").read_text().splitlines()
    except FileNotFoundError:
        return {}  # still starting
    except PermissionError:
        raise SettingsError(f"the run on {data_dir} belongs to another user") from None
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"
