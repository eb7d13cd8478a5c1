"""A cache of syntax trees on disk, because specs are read far more often than written.

A build whose specs are all cached does not even import the parser.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import lru_cache
from pathlib import Path

from archc import resources
from archc.errors import ArchcError, Reporter, Source
from archc.files import write_whole
from archc.frontend import syntax

_MOST = 256  # trees on disk, of some 30 KB


def tree_of(source: Source, reporter: Reporter, *, keep: bool) -> syntax.Spec | None:
    """The syntax tree of a spec, or None when it has syntax mistakes, which are reported.

    keep: whether it is that of a file, which will be read again
    """
    known = _recall(source) if keep else []
    if known:
        return known[0]
    from archc.frontend.parse import parse

    tree = parse(source, reporter)
    if keep and tree is not None:
        known.append(tree)
        _keep(source, tree)
    return tree


@lru_cache(maxsize=_MOST)
def _recall(source: Source) -> list[syntax.Spec]:
    """The tree of this very text by this very compiler, if it was kept; who parses it enters it here."""
    path = _place(source)
    try:
        kept = path.read_bytes() if path else b""
        digest = _digest(source)
        return [pickle.loads(kept[len(digest) :])] if kept.startswith(digest) else []
    except (OSError, EOFError, pickle.UnpicklingError):
        return []


def _keep(source: Source, tree: syntax.Spec) -> None:
    """Keep a tree in the place of an earlier one of its file; those not written for longest are dropped."""
    path = _place(source)
    if path is None:
        return
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, _digest(source) + pickle.dumps(tree))
        kept = list(path.parent.iterdir())
        for old in sorted(kept, key=os.path.getmtime)[:-_MOST] if len(kept) > _MOST else ():
            old.unlink(missing_ok=True)
    except (OSError, ArchcError):
        return  # the next run parses again


def _place(source: Source) -> Path | None:
    folder = resources.cache_dir()
    return folder / "trees" / hashlib.sha256(source.name.encode()).hexdigest()[:32] if folder else None


def _digest(source: Source) -> bytes:
    """Of all that a tree follows from."""
    given = f"{resources.toolchain()} {source.name} {source.standard} {source.text}"
    return hashlib.sha256(given.encode()).digest()
