"""A build that was made before, of inputs and outputs that are all as they were, need not be made again.

Imports next to nothing: this is what makes a second `archc build` quick.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archc import resources
from archc.errors import ArchcError
from archc.files import digest_of, write_whole


def recall(request: Sequence[str]) -> list[str] | None:
    """The lines an earlier build of this request had to say; None when anything has changed since."""
    try:
        path = _record_path(request)
        record = json.loads(path.read_text()) if path else None
        if (
            record
            and record["toolchain"] == resources.toolchain()
            and _digests(record["files"]) == record["files"]
        ):
            lines: list[str] = record["lines"]
            same = _listings(record["folders"]) == record["folders"]
            return lines if same and not any(Path(name).exists() for name in record["absent"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def remember(
    request: Sequence[str],
    digests: Mapping[Path, str],
    folders: Iterable[Path],
    absent: Iterable[Path],
    lines: Sequence[str],
) -> None:
    """Note down a finished build: the files it read and wrote, the packages' folders, what to say next time.

    `digests` are of what the build itself read and wrote: another build, or a person, may have changed files
    since.  `absent` are files that would have been read if they had been there.
    """
    try:
        path = _record_path(request)
        if path is None:
            return
        record = {
            "toolchain": resources.toolchain(),
            "files": {str(file.resolve()): digest for file, digest in digests.items()},
            "folders": _listings(str(folder.resolve()) for folder in folders),
            "absent": [str(file.absolute()) for file in absent],
            "lines": list(lines),
        }
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(record))
    except (OSError, ArchcError):
        return  # the next build takes its time


def _record_path(request: Sequence[str]) -> Path | None:
    folder = resources.cache_dir()
    key = hashlib.sha256(json.dumps([os.getcwd(), *request]).encode()).hexdigest()
    return folder / "builds" / f"{key[:32]}.json" if folder else None


def _digests(paths: Iterable[str]) -> dict[str, str]:
    return {path: digest_of(Path(path).read_bytes()) for path in paths}


def _listings(folders: Iterable[str]) -> dict[str, list[str]]:
    """What lies in each folder, but for what Python leaves there."""
    return {name: sorted(set(os.listdir(name)) - {"__pycache__"}) for name in folders}
