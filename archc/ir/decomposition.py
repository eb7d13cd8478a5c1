"""The steps of a decomposition: ops, and what each reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from archc.ir.op import Op


@dataclass(frozen=True)
class AttributeVar:
    """An attribute of the fusion, wherever it stands in the decomposition."""

    name: str


@dataclass(frozen=True)
class OperandRef:
    """An operand of the fusion."""

    name: str


@dataclass(frozen=True)
class StepRef:
    """Output `output` of an earlier step."""

    step: int
    output: int = 0


Ref: TypeAlias = OperandRef | StepRef | AttributeVar | float | None


@dataclass(frozen=True)
class Step:
    """One op of a decomposition.  Names are those the rule gives its outputs."""

    op: Op
    inputs: tuple[Ref, ...]
    attributes: Mapping[str, Any]
    names: tuple[str, ...]
