"""Where the grammar, the templates and the standard specs lie: in a checkout or inside an installed wheel."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_SOURCES = (".py", ".json", ".lark", ".jinja", ".arch")


def resource_dir(kind: str) -> Path:
    """The folder of `kind`: "grammar", "templates" or "specs"."""
    installed = _PACKAGE / "_data" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def cache_dir() -> Path | None:
    """A private folder for what can be computed again, or None where none can be made."""
    standard = os.environ.get("XDG_CACHE_HOME", "")  # of which a relative one means nothing
    root = os.environ.get("ARCHC_CACHE_DIR") or (standard if os.path.isabs(standard) else "~/.cache")
    return _writable(Path(root).expanduser() / "archc")


@cache
def _writable(folder: Path) -> Path | None:
    """The folder, made where it is missing; None where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


@cache
def toolchain() -> str:
    """A digest of the compiler itself: its code, grammar, templates and standard specs."""
    digest = hashlib.sha256()
    folders = [_PACKAGE, *(resource_dir(kind) for kind in ("grammar", "templates", "specs"))]
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in _SOURCES):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
