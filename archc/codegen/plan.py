"""The plan of a package: what its templates may see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from archc.codegen.calling import Calling
from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.kernel_plan import GroupedKernel, Kernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.modules.class_plan import Class, Parameter, Stored
from archc.codegen.native.native_plan import NativeLayers
from archc.codegen.semantics import Semantics
from archc.codegen.sight import Sight, sight_of
from archc.ir.logits import Logits


@dataclass(frozen=True)
class Constant:
    """A size at the top of a module, as Python."""

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
    uses_functional: bool  # torch.nn.functional

    @property
    def uses_math(self) -> bool:
        return any("math." in text for text in self.helpers)

    @property
    def stacks(self) -> list[NativeLayers]:
        """The native code of its loops."""
        return [each.stack for each in self.classes if each.stack]


@dataclass(frozen=True)
class Package(Calling):
    """A generated package."""

    name: str
    generates: bool  # whether it writes tokens one by one: generate
    following: tuple[str, ...]  # what comes with those that it writes, each made of the last one's
    logits: Logits | None  # over the tokens' vocabulary
    results: int  # how many there are, logits included
    base: str  # the class that either model is one of
    packed: bool  # whether documents that share a row stay in it, but for what looks at other tokens
    by_length: bool  # whether positions mean something else in a longer sequence
    front: int  # learned tokens that come first in a sequence
    copied: bool  # whether all that a cache keeps has a row for each sequence
    most_tokens: int  # that a table of positions has rows for, or 0
    expert_operands: frozenset[str]  # what functions of experts are given besides what all are
    skips: bool  # whether some choices may be no expert's
    of_expert: bool  # whether rows read what their expert has, besides products with it
    terms: tuple[str, ...]  # what the spec adds to the loss
    in_training: tuple[str, ...]  # ops that do more where a loss is computed in training
    training_words: tuple[str, ...]  # those of them that a spec may say
    trains: bool  # whether some of it is for training alone: such terms, or noise
    rings: bool  # whether the cache keeps only the last tokens of some layers
    numbers: bool  # whether it keeps whole numbers of tokens, besides what attention reads
    wide_slots: bool  # whether it keeps values in float32, whatever the model's dtype
    states: bool  # whether layers carry states from token to token
    root: str  # what the names of all tensors begin with
    ignored: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]  # (name a checkpoint may repeat, the name it is tied to)
    model: Module
    reference: Module
    kernels: tuple[Kernel, ...]
    semantics: Semantics  # of which reference.py has functions

    @property
    def transposed(self) -> bool:
        """Whether a parameter holds the transpose of a checkpoint's tensor."""
        return any(stored.transposed for stored in self._stored)

    @property
    def stacked(self) -> bool:
        """Whether a checkpoint's tensor holds the rows of several experts."""
        return any(stored.stacked for stored in self._stored)

    @property
    def stacks(self) -> bool:
        """Whether a checkpoint's tensor holds the rows of all experts, which may be quantised as one."""
        return any(stored.stacked and not stored.expert for stored in self._stored)

    @property
    def joined(self) -> bool:
        """Whether a checkpoint's tensor holds experts' matrices one after the other."""
        return any(stored.joined is not None for stored in self._stored)

    @property
    def by_heads(self) -> bool:
        """Whether a checkpoint's tensor has rows head by head that the parameter has part by part."""
        return any(stored.heads for stored in self._stored)

    @property
    def per_expert(self) -> bool:
        """Whether each expert has tensors of its own in a checkpoint."""
        return any(parameter.per_expert for parameter in self._parameters)

    @property
    def wide(self) -> bool:
        """Whether some parameters are kept in float32."""
        return any(parameter.wide for parameter in self._parameters)

    @property
    def whole(self) -> bool:
        """Whether some parameters are tables of whole numbers."""
        return any(parameter.whole for parameter in self._parameters)

    @property
    def moves_choices(self) -> bool:
        """Whether the choice of experts depends on a parameter that is not trained, a bias for even loads."""
        return self.experts and any(not (each.trained or each.whole) for each in self._parameters)

    @property
    def _parameters(self) -> Iterator[Parameter]:
        for each in (*self.model.classes, *self.reference.classes):
            yield from each.parameters

    @property
    def _stored(self) -> Iterator[Stored]:
        for parameter in self._parameters:
            yield from (*parameter.stored, *parameter.shared)

    @property
    def quantised(self) -> bool:
        """Whether checkpoints may hold quantised matrices, of one expert each or stacked."""
        return self.per_expert or self.stacks

    @property
    def quantised_functions(self) -> tuple[str, ...]:
        """What checkpoint.py imports from quantised.py."""
        float8 = ("float8_pieces", "scale_shape") if self.per_expert else ()
        mxfp4 = ("mxfp4_pieces",) if self.stacks else ()
        return tuple(sorted(("plain_name", *float8, *mxfp4)))

    @property
    def trains_kernels(self) -> bool:
        """Whether something for training alone has a kernel."""
        return bool({"jittered_linear", "drop_crowded"} & set(self.in_training))

    @property
    def sight(self) -> Sight:
        """What attention asks the runtime for."""
        return sight_of(self.kernels)

    @property
    def grouped(self) -> bool:
        """Whether experts have kernels of their own."""
        return any(isinstance(kernel, GroupedKernel) for kernel in self.kernels)

    @property
    def dispatched(self) -> tuple[DispatchedKernel, ...]:
        """Products of experts with activations after them."""
        return tuple(kernel for kernel in self.kernels if isinstance(kernel, DispatchedKernel))

    @property
    def loss(self) -> bool:
        """Whether there is a loss: of logits over the tokens' vocabulary."""
        return self.logits is not None

    @property
    def vocabulary(self) -> int:
        return self.logits.vocabulary if self.logits else 0

    @property
    def books(self) -> int:
        """How many numbers a token consists of, each of a codebook; 0 where it is one number."""
        return self.logits.books if self.logits else 0

    @property
    def which(self) -> str:
        """What takes logits from all that a model returns."""
        return f"[{self.logits.place}]" if self.logits and self.results > 1 else ""

    @property
    def book_dim(self) -> str:
        """What follows the other dims of tokens in shapes."""
        return f", {self.books}" if self.books else ""

    @property
    def sees_later(self) -> bool:
        """Whether what comes after a token matters to it, so that it must be known for padding."""
        return not self.cached or self.by_length or self.trains

    @property
    def in_steps(self) -> str:
        """A condition for masks: whether a span's keys include those of tokens still to come."""
        if not self.cached:
            return ""
        return (
            " or (self.steps is not None and not self.fixed)"
            if self.fixed_tokens
            else " or self.steps is not None"
        )

    @property
    def ignored_items(self) -> str:
        items = [json.dumps(pattern) for pattern in self.ignored]
        return f"{items[0]}," if len(items) == 1 else ", ".join(items)

    @property
    def tied_dict(self) -> str:
        return "{" + ", ".join(f"{alias}: {target}" for alias, target in self.tied) + "}"


@dataclass(frozen=True)
class ReportPlan:
    """REPORT.md: facts as label and value, what was fused, and the linear maps that have kernels.

    linears_after: those of one row that begin with the fused op before them
    """

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    fired: tuple[tuple[str, str, int, str], ...]  # rule, place, times, relaxations
    relaxations: tuple[tuple[str, str], ...]  # name, meaning
    missed: tuple[tuple[str, str, str], ...]  # rule, place, reason
    remarks: tuple[tuple[str, str], ...]  # pass, text
    linear: LinearKernel | None
    linears_after: tuple[LinearAfterKernel, ...]
