"""What the templates may see of a package."""

from __future__ import annotations

import json
from dataclasses import dataclass

from archc.codegen.class_plan import Class
from archc.codegen.kernel_plan import Kernel


@dataclass(frozen=True)
class Constant:
    name: str
    value: str


@dataclass(frozen=True)
class Module:
    """model.py or reference.py: `classes` end with the model itself."""

    title: str
    imports: tuple[str, ...]
    constants: tuple[Constant, ...]
    helpers: tuple[str, ...]
    classes: tuple[Class, ...]


@dataclass(frozen=True)
class Package:
    """A generated package."""

    name: str
    generates: bool  # whether it is a language model with a cache: loss, new_cache, generate
    loss: bool  # whether its output is logits over the tokens' vocabulary
    vocabulary: int
    vectors: bool  # whether some reference function holds a list of numbers
    experts: bool  # whether tokens choose experts
    ignored: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]  # (name a checkpoint may repeat, the name it is tied to)
    model: Module
    reference: Module
    kernels: tuple[Kernel, ...]

    @property
    def ignored_items(self) -> str:
        items = [json.dumps(pattern) for pattern in self.ignored]
        return f"{items[0]}," if len(items) == 1 else ", ".join(items)

    @property
    def tied_dict(self) -> str:
        return "{" + ", ".join(f"{alias}: {target}" for alias, target in self.tied) + "}"


@dataclass(frozen=True)
class ReportPlan:
    """REPORT.md: facts as label and value, then what was fused."""

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    fired: tuple[tuple[str, str, int, str], ...]  # rule, place, times, relaxations
    missed: tuple[tuple[str, str, str], ...]  # rule, place, reason
    remarks: tuple[tuple[str, str], ...]  # pass, text
