"""What a program's graph itself makes of cases, interpreted: what packages are held to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from archc.compiler import Compilation
from archc.ir.interpreter import Interpreter
from archc.ir.program import KEY_POSITIONS, POSITIONS, front_of, sequences
from archc.verification.cases import Case
from archc.verification.conditioning import furthest_moved
from archc.verification.stages import cast


class Truths:
    """What a program's graph itself makes of cases: the same for every model that is held to it."""

    def __init__(self, compilation: Compilation, weights: dict[str, Tensor]):
        self.graph, self.reference = compilation.program.graph, compilation.reference
        self.front = front_of(self.graph)
        self._weights = {torch.float64: weights, torch.float32: cast(weights, torch.float32)}
        self._found: dict[tuple[str, object], dict[str, Tensor]] = {}

    def whole(self, case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """The outputs for all tokens at once."""
        if (case.name, dtype) not in self._found:
            given = case if dtype is torch.float64 else in_dtype(case, dtype)
            self._found[case.name, dtype] = self._interpret(given, self._weights[dtype])
        return self._found[case.name, dtype]

    def moved(self, case: Case, dtype: torch.dtype, padding: Tensor | None) -> float:
        """How far the outputs move in float64 when inputs and weights do so by a dtype's rounding."""
        weights, truth = self._weights[torch.float64], self.whole(case)
        return furthest_moved(self._interpret, case, weights, truth, dtype, padding)

    def in_pieces(self, case: Case, pieces: tuple[int, ...]) -> dict[str, Tensor]:
        """The outputs for tokens that come in pieces."""
        if (case.name, pieces) not in self._found:
            self._found[case.name, pieces] = self._interpret_pieces(case, pieces)
        return self._found[case.name, pieces]

    @torch.inference_mode()
    def _interpret(self, case: Case, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        tokens = sequences(self.graph)[0]
        outputs = Interpreter(weights).run(self.graph, case.inputs)
        of_tokens = [self.graph.type(value).shape[:2] == tokens.dims for _, value in self.graph.outputs]
        told = zip(outputs.values(), of_tokens, strict=True)
        return numbered(output[:, self.front :] if self.front and of else output for output, of in told)

    @torch.inference_mode()
    def _interpret_pieces(self, case: Case, pieces: Sequence[int]) -> dict[str, Tensor]:
        """The first piece comes with the tokens that are learned in front."""
        interpreter = Interpreter(self._weights[torch.float64], state={})
        last = sequences(self.reference)[-1]
        positions, keys = last.called(POSITIONS), last.called(KEY_POSITIONS)
        parts: list[dict[str, Tensor]] = []
        for start, end in ends((pieces[0] + self.front, *pieces[1:])):
            inputs = {**case.inputs, keys: case.inputs[keys][:, :end]}
            for name in (*case.grown, positions):
                inputs[name] = case.inputs[name][:, start:end]
            parts.append(numbered(interpreter.run(self.reference, inputs).values()))
        return {name: output[:, self.front :] for name, output in joined(parts).items()}


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    """A case whose inputs with fractions are in a dtype."""
    inputs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in case.inputs.items()}
    return Case(case.name, inputs, case.grown, case.options, case.padding)


def numbered(outputs: Iterable[Tensor]) -> dict[str, Tensor]:
    return {str(place): output for place, output in enumerate(outputs)}


def ends(pieces: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where pieces of so many tokens start and end."""
    return itertools.pairwise(itertools.accumulate(pieces, initial=0))


def joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Outputs for all tokens, of those for pieces."""
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
