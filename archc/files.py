"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
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
    data = content.encode() if isinstance(content, str) else content
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise ArchcError(f"cannot write {path}: {error.strerror}") from None
