"""The kernels' calls of a real forward pass, for each kind of call."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from archc.analysis.kernels import Shape
from archc.benchmarking.contenders import Package, fill
from archc.benchmarking.kernel_peers import Call, Function, plain_function
from archc.benchmarking.kernel_places import Place
from archc.benchmarking.models import REFERENCE, Models
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.probes import cache_bytes
from archc.benchmarking.recording import Arguments, Calls, Form, form_of, recorded
from archc.benchmarking.results import OURS
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.kernel_plan import CapacityKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.recurrence.recurrence_kernel import CarryingKernel
from archc.codegen.kernels.recurrence.recurrence_plan import RecurrenceKernel
from archc.verification.packages import given_tokens

Functions = Sequence[tuple[str, str]]  # modules of a package, and functions in them
_ROOM = 8  # tokens that a cache has room for after the one that is timed


@dataclass(frozen=True)
class Kind:
    """A kind of call: T tokens of B sequences, in a training step, or after a context of S others."""

    batch: int
    tokens: int
    context: int | None = None
    trains: bool = False

    @property
    def shape(self) -> Shape:
        """The same as costs are counted for."""
        return Shape(self.batch, self.tokens, (self.context or 0) + self.tokens, self.tokens)

    @property
    def shown(self) -> dict[str, int]:
        return {"B": self.batch, **({"T": self.tokens} if self.context is None else {"S": self.context})}


@dataclass
class Recordings:
    """Calls by kind, recorded when first asked for; those of one kind are held at a time."""

    models: Models
    places: Sequence[Place]
    _kind: Kind | None = None
    _calls: dict[str, Calls] = field(default_factory=dict)

    def of(self, place: Place, kind: Kind) -> list[Call]:
        """The calls of a kernel, on other tensors each; raises `SkippedError` where the model makes none."""
        function = getattr(getattr(self.models.package, place.module), place.name)
        kept = self._recorded(OURS, kind).kept.get(place.name, [])
        if isinstance(place.plan, CarryingKernel):
            own = len(place.node.operands)  # no documents share rows here
            kept = [given[:own] for given in kept]
        if not kept:
            raise SkippedError("the model does not call it here")
        plain = itertools.cycle(self._plain(place, kind, kept))
        return [Call(function, given, *other) for given, other in zip(kept, plain, strict=False)]

    def _plain(self, place: Place, kind: Kind, kept: list[Arguments]) -> list[tuple[Function, Arguments]]:
        """What the unfused model does instead, and on what."""
        if isinstance(place.plan, LossKernel):
            return [(self._plain_loss, given) for given in kept]
        if isinstance(place.plan, RecurrenceKernel) and place.plan.has_chunks and kind.tokens > 1:
            chunks = getattr(self.models.package.kernels, f"_{place.name}_chunks")
            return [(chunks, given) for given in kept]
        if not isinstance(place.plan, AttentionKernel | CapacityKernel):
            return [(plain_function(place), given) for given in kept]
        kept_by_form, reference = self._recorded(REFERENCE, kind).kept, self.models.package.reference
        found: list[tuple[Function, Arguments]] = []
        for form in _stand_for(place, kept_by_form):
            function = partial(getattr(reference, form.name), **dict(form.keywords))
            found += [(function, given) for given in kept_by_form[form]]
        if not found:
            raise SkippedError("the unfused model has nothing that stands for it")
        return found

    def _plain_loss(self, *given: Any) -> Any:
        """What a language model does where no kernel knows better: all logits first."""
        signature = inspect.signature(self.models.package.kernels.linear_cross_entropy)
        named = signature.bind(*given).arguments
        base = self.models.package.language_model.LanguageModel
        return base.cross_entropy(
            self.models.model, *(named[name] for name in ("h", "targets", "shares", "z_loss"))
        )

    def _recorded(self, contender: str, kind: Kind) -> Calls:
        """Our calls by a kernel's name; those of the unfused model by their form."""
        if kind != self._kind:
            self._calls.clear()
            self._kind = kind
        if contender not in self._calls:
            enough = 2 * cache_bytes(self.models.device)
            if contender == OURS:
                functions, calls = [(p.module, p.name) for p in self.places], Calls(enough)
            else:
                functions = [("reference", name) for place in self.places for name in place.reference]
                calls = Calls(enough, form_of)
            with torch.no_grad():
                self._call(contender, kind, functions, calls)
            self._calls[contender] = calls
        return self._calls[contender]

    def _call(self, contender: str, kind: Kind, functions: Functions, calls: Calls) -> None:
        found = self.models.get(contender)
        assert isinstance(found, Package)
        model: Any = found.model
        tokens = self.models.tokens(kind.batch, kind.tokens)
        if kind.context is None:
            with self._listening(functions, calls):
                given = given_tokens(model, tokens, tokens)
                model.loss(*given, tokens) if kind.trains else model.hidden(*given)
            return
        cache = model.new_cache(kind.batch, kind.context + kind.tokens + _ROOM)
        fill(model, self.models.tokens(kind.batch, kind.context), cache)
        if tokens.is_cuda and contender == OURS:
            cache.start_steps()
        with self._listening(functions, calls):
            model.hidden(*given_tokens(model, tokens, None), cache=cache)
        cache.length = kind.context  # so that the calls can be made again

    @contextmanager
    def _listening(self, functions: Functions, calls: Calls) -> Iterator[None]:
        """Keep the calls of functions of several modules."""
        with ExitStack() as stack:
            for module in {module for module, _ in functions}:
                names = [name for home, name in functions if home == module]
                stack.enter_context(recorded(getattr(self.models.package, module), names, calls))
            yield


def _stand_for(place: Place, forms: Iterable[Form]) -> list[Form]:
    """The forms of the unfused model's calls that a kernel's take the place of.

    Attention is told apart by its heads, as others may share its function.  Where keys are a latent, which
    the unfused model makes keys of each head from, only queries are as many.
    """
    named = [form for form in forms if form.name in place.reference]
    if not isinstance(place.plan, AttentionKernel):
        return named
    plan, attributes = place.plan, place.node.attributes
    q, k, v = (plan.heads, plan.head_dim), (plan.kv_heads, plan.head_dim), (plan.kv_heads, plan.value_dim)
    same = [
        form
        for form in named
        if form.widths[0][0] == plan.heads
        and all(math.isclose(float(attributes[name]), value) for name, value in form.keywords)
    ]
    return [form for form in same if form.widths == (q, k, v)] or same
