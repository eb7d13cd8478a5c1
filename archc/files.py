"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from archc.errors import ArchcError

if sys.platform != "win32":  # which has no locks of folders
    import fcntl

_RANDOM = 8  # characters that mkstemp adds to a name


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Meanwhile no other process of archc writes into a folder: its files do not mix with ours.

    Gives False where there are no locks, so that others may.
    """
    if sys.platform == "win32":
        yield False
        return
    handle, alone = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
            alone = True
        yield alone
    finally:
        os.close(handle)


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, or replace its content and keep its permissions; raises `ArchcError`.

    What killed processes left of writing it goes.
    """
    try:
        with alone_in(path.parent) as alone:
            write_together({path: content})
            for left in unfinished(path.parent, [path.name]) if alone else ():
                left.unlink()
    except OSError as error:
        raise ArchcError(f"cannot write {path}: {error.strerror}") from None


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write files as `write_whole` does, but none of them where there is no room for all."""
    beside: dict[Path, str] = {}
    path = Path()
    try:
        for path, content in contents.items():
            _write_beside(path, content, beside)
        for path in contents:
            os.replace(beside[path], path)
            del beside[path]
    except OSError as error:
        raise ArchcError(f"cannot write {path}: {error.strerror}") from None
    finally:
        for name in beside.values():
            os.unlink(name)


def unfinished(folder: Path, names: Iterable[str]) -> list[Path]:
    """What killed processes left of writing files of these names, besides what others write just now."""
    beginnings = {f".{name}." for name in names}
    return [path for path in sorted(folder.iterdir()) if path.name[:-_RANDOM] in beginnings]


def _write_beside(path: Path, content: str | bytes, beside: dict[Path, str]) -> None:
    """Write what becomes a file's content into one beside it, whose name is noted."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    handle, beside[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.chmod(beside[path], mode)
