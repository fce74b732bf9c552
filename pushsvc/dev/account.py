"""Which system user a server runs as, and what that user must be able to reach.

PostgreSQL refuses to run as root, so root runs it as somebody else, who then needs a way in.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import re
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError

_log = logging.getLogger(__name__)

# Longest path of a unix socket: sun_path less its final zero.
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
# Not every reader of a URL takes percent-encoding, or a colon or comma in a host, for what it is.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class Account:
    """A system user."""

    name: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        """User and group, as `chown` and `spawn` take them."""
        return self.uid, self.gid

    def let_through(self, path: Path) -> None:
        """Make every directory on the way to `path`, and `path` itself, traversable by this user."""
        path = path.resolve()
        for directory in (*reversed(path.parents), path):
            mode = directory.stat()
            wanted = self._class_bit(mode, stat.S_IXUSR)
            if mode.st_mode & wanted:
                continue
            _log.warning("%s: chmod %s, so that user %s can pass", directory, _symbolic(wanted), self.name)
            try:
                directory.chmod(stat.S_IMODE(mode.st_mode) | wanted)
            except OSError as error:
                raise SettingsError(
                    f"user {self.name} can't pass {directory} ({error.strerror}); "
                    "make it traversable, or use --data-dir, or do not run this as root"
                ) from error

    def let_read(self, tree: Path) -> None:
        """Make a tree of installed files readable by this user (a strict umask at `pip install`)."""
        self.let_through(tree)
        changed = 0
        for parent, _, names in os.walk(tree):
            changed += self._let_read(Path(parent))
            changed += sum(self._let_read(Path(parent, name)) for name in names)
        if changed:
            _log.warning("%s: made %d files readable by user %s", tree, changed, self.name)

    def _let_read(self, path: Path) -> bool:
        mode = path.lstat()
        if stat.S_ISLNK(mode.st_mode):
            return False
        wanted = self._class_bit(mode, stat.S_IRUSR)
        if mode.st_mode & stat.S_IXUSR:
            wanted |= self._class_bit(mode, stat.S_IXUSR)
        if mode.st_mode & wanted == wanted:
            return False
        path.chmod(stat.S_IMODE(mode.st_mode) | wanted)
        return True

    def _class_bit(self, mode: os.stat_result, user_bit: int) -> int:
        """The permission that counts for this user: the owner's, the group's or the others'."""
        if mode.st_uid == self.uid:
            return user_bit
        return user_bit >> 3 if mode.st_gid == self.gid else user_bit >> 6


def server_account(existing: Path) -> Account | None:
    """The user to run a server as that must not be root; None: as ourselves.

    What exists keeps its owner, so that a directory of alice's still is hers after a run as root.
    """
    owner = existing.stat().st_uid if existing.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise SettingsError(
                f"{existing} belongs to another user (uid {owner}); run as that one, or use --data-dir"
            )
        return None
    if owner:
        return _account_of(owner)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise SettingsError(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as; "
        "run this as another user, or set PUSHSVC_DATABASE_URL"
    )


def private_directory(path: Path) -> None:
    """Make `path` if need be, for its owner only; root's lets others pass to what is theirs in it."""
    if path.is_dir():
        return
    try:
        path.mkdir(parents=True)
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise SettingsError(f"{path} can't be made ({error.strerror}); use --data-dir") from error


def socket_directory(data_dir: Path, socket_name: str, account: Account | None = None) -> Path:
    """A directory for a unix socket: in the data directory, or a short one if that path won't do.

    The same one at every start; 0700, owned by whom the server runs as.
    """
    directory = data_dir / "run"
    if not _fits(directory / socket_name):
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()).resolve() / f"pushsvc-{digest}"
        if len(os.fsencode(directory / socket_name)) > _SOCKET_PATH_LIMIT:
            raise SettingsError(f"the path of a socket in {directory} would be too long; set TMPDIR to a shorter one")
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    allowed = {os.geteuid(), account.uid} if account else {os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in allowed:
        # a temporary directory is everybody's: somebody else may have been there first
        raise SettingsError(f"{directory} belongs to another user; remove it, or set TMPDIR to a directory of yours")
    if account is not None:
        os.chown(directory, *account.owner)
        account.let_through(directory.parent)
    directory.chmod(0o700)
    return directory


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and _PLAIN_PATH.fullmatch(str(path)) is not None


def _account_of(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, uid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _symbolic(bit: int) -> str:
    return {stat.S_IXUSR: "u+x", stat.S_IXGRP: "g+x", stat.S_IXOTH: "o+x"}[bit]
