"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from archc.errors import ArchcError


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
