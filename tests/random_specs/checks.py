"""What must hold for any spec: `archc verify`, and each road of a package in the dtypes that models run in.

A road is held to the float64 run of `Reference`: it may be no further away than `Reference` with the same
rounding, but for a factor of chance.  Of several random weights the best count: where scores of experts are
nearly equal, rounding alone may choose others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from archc import compiler
from archc.cli import main
from archc.compiler import Compilation
from archc.ir.decoding import depends_on_length
from archc.ir.graph import Graph
from archc.ir.program import packs_documents
from archc.verification.cases import Case, cases, random_weights
from archc.verification.outcome import Outcome, furthest
from archc.verification.packages import (
    documents_of,
    import_package,
    outputs,
    stored_tensors,
    through_cache,
)
from archc.verification.stages import cast
from archc.verification.truths import in_dtype, joined
from archc.verification.verify import outcomes_of


@dataclass(frozen=True)
class Rounding:
    """How a model is run: in the dtype of its weights, or with products in bfloat16 under torch.autocast."""

    name: str
    dtype: torch.dtype
    chance: float
    floor: float
    autocast: bool = False


ROUNDINGS = (
    Rounding("float32", torch.float32, chance=8.0, floor=1e-6),
    Rounding("bfloat16", torch.bfloat16, chance=4.0, floor=0.03),
    Rounding("float32 under autocast", torch.float32, chance=4.0, floor=0.03, autocast=True),
)
DOCUMENTS = "documents in a row"
SMALL = 0.1  # of the largest gradient: what is smaller is held to that size, as some are nothing but rounding
TRIES = 3  # of random weights
SLACK = (
    4.0  # for `archc verify` in float32: of so many specs some have more bad luck than its own limit allows
)

COMMANDS = (["check"], ["explain"], ["ir"], ["ir", "--after", "pack"], ["analyze"], ["fmt", "--check"])


def compiled(text: str) -> Compilation:
    """The model of a spec; a mistake in it is raised."""
    spec = compiler.read_spec_text(text)
    compiler.check(spec)
    (program,) = compiler.lower_models(spec, spec.models)
    return compiler.compile_program(program, spec.rules)


def verified(text: str, each_pass: bool) -> Iterator[str]:
    """What `archc verify` finds off."""
    compilation = compiled(text)
    outcomes = outcomes_of(compilation.program, compilation, each_pass)
    yield from _told(
        replace(each, limit=SLACK * each.limit) if each.check == "float32" else each for each in outcomes
    )


def roads(text: str, natively: bool = False) -> Iterator[str]:
    """What is off on the roads of a package in float32, bfloat16 and both, by native code or as it is.

    Where Triton interprets kernels, the roads lead through them.
    """
    compilation = compiled(text)
    with tempfile.TemporaryDirectory() as name:
        package = import_package(compilation, Path(name))
        if natively:
            assert package.native.build()
        for rounding in ROUNDINGS:
            tries = [list(_Roads(compilation, package, rounding, 0).outcomes())]
            while len(tries) < TRIES and not all(outcome.holds for outcome in tries[-1]):
                tries.append(list(_Roads(compilation, package, rounding, len(tries)).outcomes()))
            yield from _told(min(same, key=_excess) for same in zip(*tries, strict=True))


def _told(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Those that do not hold, but for those without a limit: the unfused model leaves the dtype's range."""
    for each in outcomes:
        if not each.holds and each.limit == each.limit:
            found = f"{each.error:.1e} of {each.limit:.1e} {each.detail}"
            yield f"{each.subject}, {each.check}, {each.case}: {found}"


def _excess(outcome: Outcome) -> float:
    excess = outcome.error / (outcome.limit or 1.0)
    return excess if excess == excess else float("inf")


def commands(text: str) -> Iterator[str]:
    """The commands that read a spec and end otherwise than they should."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.arch"
        path.write_text(text)
        CliRunner().invoke(main, ["fmt", str(path)])
        for command, *options in COMMANDS:
            result = CliRunner().invoke(main, [command, str(path), *options])
            if result.exit_code != 0 or "Traceback" in result.output:
                yield f"archc {command}: {result.exception!r} {result.output[-300:]}"


@dataclass(frozen=True)
class _Roads:
    """A package as it is rounded, with random weights that their dtype can hold."""

    compilation: Compilation
    package: ModuleType
    rounding: Rounding
    seed: int

    def outcomes(self) -> Iterator[Outcome]:
        graph, dtype = self.compilation.program.graph, self.rounding.dtype
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.safetensors"
            weights = random_weights(graph, seed=self.seed)
            save_file({name: each.contiguous() for name, each in cast(weights, dtype).items()}, path)
            exact = self.package.Reference.from_pretrained(path, dtype=torch.float64).eval()
            plain = self.package.Reference.from_pretrained(path, dtype=dtype).eval()
            model = self.package.Model.from_pretrained(path, dtype=dtype).eval()
        for case in _given(graph):
            case = in_dtype(case, dtype)
            wide = in_dtype(case, torch.float64)
            yield from self._forward(exact, plain, model, case, wide)
            if hasattr(model, "loss") and case.name != "equal tokens":
                yield self._gradients(exact, plain, model, case, wide)

    def _forward(self, exact: Any, plain: Any, model: Any, case: Case, wide: Case) -> Iterator[Outcome]:
        ways: dict[str, Callable[[Any, Case], dict[str, Tensor]]] = {"whole": _whole}
        if hasattr(model, "new_cache") and case.tokens.shape[1] > 1 and case.name != DOCUMENTS:
            ways |= {"in pieces": _in_pieces, "in steps": _in_steps}
        for name, way in ways.items():
            with torch.no_grad():
                truth = (way if depends_on_length(self.compilation.program.graph) else _whole)(exact, wide)
                with self._rounded():
                    unfused, found = way(plain, case), way(model, case)
            error, least = (furthest(each, truth, case.padding) for each in (found, unfused))
            yield self._outcome(name, case.name, error, least)

    def _gradients(self, exact: Any, plain: Any, model: Any, case: Case, wide: Case) -> Outcome:
        truth = _gradients(exact, wide)
        with self._rounded():
            unfused, found = (_gradients(each, case) for each in (plain, model))
        least = SMALL * max(float(gradient.norm()) for gradient in truth.values())
        errors, plains = (
            {
                name: float((given[name].double() - gradient).norm())
                / (max(float(gradient.norm()), least) or 1.0)
                for name, gradient in truth.items()
            }
            for given in (found, unfused)
        )
        worst = max(errors, key=lambda name: errors[name])
        return self._outcome("gradients", f"{case.name}, {worst}", errors[worst], max(plains.values()))

    def _rounded(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.rounding.autocast)

    def _outcome(self, check: str, case: str, error: float, unfused: float) -> Outcome:
        limit = max(self.rounding.chance * unfused, self.rounding.floor)
        return Outcome("Model", f"{check} in {self.rounding.name}", case, error, limit)


def _given(graph: Graph) -> Iterator[Case]:
    """What the models are given, documents in a row and padding on the left among it."""
    first, *others = cases(graph)
    yield first
    if packs_documents(graph):
        yield replace(first, name=DOCUMENTS, options={"documents": documents_of(first)})
    for case in others:
        if case.name.endswith("tokens") or case.name == "padding on the left":
            yield case


def _whole(model: Any, case: Case) -> dict[str, Tensor]:
    return outputs(model(*case.given, **case.options))


def _in_pieces(model: Any, case: Case) -> dict[str, Tensor]:
    """A prompt, then single tokens, then some at once."""
    length = case.tokens.shape[1]
    some, single = length // 3, length // 3
    return through_cache(model, case, (some, *[1] * single, length - some - single))


def _in_steps(model: Any, case: Case) -> dict[str, Tensor]:
    """A prompt, then single tokens with all state on the device."""
    length = case.tokens.shape[1]
    some = max(1, length // 2)
    options = {name: each[:, :some] if each is case.padding else each for name, each in case.options.items()}
    cache = model.new_cache(*case.tokens.shape[:2])
    parts = [outputs(model(*case.piece(0, some), cache=cache, **options))]
    cache.start_steps()
    parts += [outputs(model(*case.piece(place, place + 1), cache=cache)) for place in range(some, length)]
    return joined(parts)


def _gradients(model: Any, case: Case) -> dict[str, Tensor]:
    """Gradients of the loss, without logits of the spec's terms, by the names of the checkpoint."""
    labels = case.tokens.clone()
    labels[:, : labels.shape[1] // 3] = -100
    if case.padding is not None:
        labels[~case.padding] = -100
    given = [*case.given, labels] if hasattr(model, "log_probs") else case.given
    model.zero_grad()
    model.loss(*given, **case.options).backward()
    return dict(stored_tensors(model, gradients=True))
