"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from archc.errors import ArchcError

if sys.platform != "win32":  # which has no locks of folders
    import fcntl


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Meanwhile no other process of archc writes into a folder: its files do not mix with ours."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, or replace its content and keep its permissions; raises `ArchcError`."""
    write_together({path: content})


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


def _write_beside(path: Path, content: str | bytes, beside: dict[Path, str]) -> None:
    """Write what becomes a file's content into one beside it, whose name is noted."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    handle, beside[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.chmod(beside[path], mode)
