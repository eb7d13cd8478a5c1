"""What a kernel takes, and what a launch gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """A kernel's parameters, and what its launch gives for them."""

    parameters: tuple[str, ...]
    arguments: tuple[str, ...]
