"""`archc design`: a model of a size, as a spec.

Parameters are counted on graphs.  A model's count is affine in its layers, and in d_ff for each of them, so
three small graphs of a width tell what any depth of that width holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from archc import compiler
from archc.analysis import proportions as rules
from archc.analysis.analysis import Analysis, Setting, analyse
from archc.analysis.devices import Device
from archc.analysis.parameters import count_parameters
from archc.compiler import Spec
from archc.errors import ArchcError
from archc.ir.program import Program
from archc.quantities import quantity_text
from archc.target import MAX_ROW

TOLERANCE = 0.05  # of the parameters asked for
_VOCABULARY_STEP = 128
_TILE = 128  # of matrix products, on most devices
_DTYPE = "bfloat16"
_WIDTHS = 0.6, 1.7  # times the guess, between which widths are tried
_ATTENTION = 2.5  # parameters over d^2 of grouped attention, for a guess


@dataclass(frozen=True)
class Request:
    """What to design.

    parameters: in all
    moe:        whether each MLP is a mixture of experts
    context:    tokens that positions and the cache are made for
    device:     that the model's sizes should suit, and whose roofline is told
    tokens:     of training; None for those that Epoch's fit finds best
    vocabulary: of the tokenizer; None lets the size choose
    name:       of the model
    """

    parameters: float
    context: int
    device: Device
    tokens: float | None = None
    vocabulary: int | None = None
    moe: bool = False
    name: str = "designed"


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, as arguments of `Llama`; of `Mixtral` where it has experts.

    d_ff:    of an MLP, or of one expert
    choices: experts that a token takes
    """

    d: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    vocabulary: int
    tied: bool
    theta: int
    experts: int = 0
    choices: int = 1

    @property
    def arch(self) -> str:
        return "Mixtral" if self.experts else "Llama"

    @property
    def spec(self) -> str:
        """The standard spec that defines the arch."""
        return self.arch.lower()

    @property
    def mlp_ratio(self) -> float:
        """What a token meets of MLPs in a layer, over the width."""
        return self.choices * self.d_ff / self.d

    def arguments(self) -> dict[str, str]:
        return {
            "d": str(self.d),
            "layers": str(self.layers),
            "heads": str(self.heads),
            "kv_heads": str(self.kv_heads),
            "head_dim": str(self.head_dim),
            "d_ff": str(self.d_ff),
            "vocab": str(self.vocabulary),
            "tied": str(self.tied).lower(),
            **({"experts": str(self.experts), "choices": str(self.choices)} if self.experts else {}),
            "rope": f"rope(theta = {self.theta})",
        }


@dataclass(frozen=True)
class Design:
    """A shape with what its graph says of it."""

    request: Request
    shape: Shape
    analysis: Analysis


def design(request: Request) -> Design:
    """The shape that is nearest to published proportions, of the size asked for; raises `ArchcError`.

    Where one full context would take more memory than the weights, it has fewer key and value heads.
    """
    made = _nearest(request, math.inf)
    while _can_share_more(made):
        made = _nearest(request, made.shape.kv_heads // 2)
    return made


def _can_share_more(made: Design) -> bool:
    """Whether the cache outweighs the model, and half of the key and value heads are enough."""
    shape, analysis = made.shape, made.analysis
    outweighs = analysis.kv_cache.bytes > analysis.memory.weights[_DTYPE]
    return outweighs and shape.kv_heads > 1 and 2 * shape.heads / shape.kv_heads <= rules.MAX_SHARED


def _nearest(request: Request, most_kv_heads: float) -> Design:
    candidates = list(_candidates(request, most_kv_heads))
    fitting = [each for each in candidates if abs(each.error) < TOLERANCE]
    if not fitting:
        raise ArchcError(_no_design(request, candidates))
    shape = min(fitting, key=lambda each: each.distance + (40 * each.error) ** 2).shape
    return Design(request, shape, _analysis(shape, request))


def _no_design(request: Request, candidates: list[_Candidate]) -> str:
    """Why there is none of a size, and of which there is."""
    size = f"no design of {quantity_text(request.parameters)} parameters"
    width, vocabulary = _guess(request)
    if width > MAX_ROW:
        rest = "" if request.moe else "; with --moe it is less"
        return f"{size}: its width would be above {MAX_ROW:,}, the longest row that a kernel holds{rest}"
    asked = f" with a vocabulary of {request.vocabulary:,}" if request.vocabulary else ""
    scarce = 2 * vocabulary * width > request.parameters
    reason = "its tables of tokens leave too little for layers" if scarce else "sizes come in steps"
    near = min(candidates, key=lambda each: abs(each.error), default=None)
    told = f"; the nearest has {quantity_text(request.parameters * (1 + near.error))}" if near else ""
    return f"{size}{asked}: {reason}{told}"


@dataclass(frozen=True)
class _Candidate:
    """A shape, its distance from the rules, and by what share it is larger than what was asked for."""

    shape: Shape
    distance: float
    error: float


def _candidates(request: Request, most_kv_heads: float) -> Iterator[_Candidate]:
    """Shapes of about the size."""
    guess, vocabulary = _guess(request)
    for d in _multiples(guess * _WIDTHS[0], min(guess * _WIDTHS[1], MAX_ROW + 1)):
        heads, width = d // rules.head_dim(d), rules.head_dim(d)
        kv_heads = int(min(rules.kv_heads(heads), most_kv_heads))
        if heads / kv_heads > rules.MAX_SHARED:
            continue
        tied = rules.ties_tables(request.parameters, d, vocabulary)
        theta = rules.rope_theta(request.context)
        experts, choices = rules.experts_for(request.parameters) if request.moe else (0, 1)
        shape = Shape(*(d, 2, heads, kv_heads, width, 4 * d, vocabulary, tied, theta, experts, choices))
        line = _Line(shape)
        wanted = rules.layers_for(d, _active(request))
        for layers in range(2, 2 * math.ceil(wanted) + 2, 2):
            d_ff = line.d_ff_for(request.parameters, layers)
            error = line.parameters(layers, d_ff) / request.parameters - 1
            found = replace(shape, layers=layers, d_ff=d_ff)
            if found.mlp_ratio <= 8:
                proportion = math.log(found.mlp_ratio / rules.MLP_RATIO)
                uneven = 0.02 if d_ff % _TILE else 0
                yield _Candidate(found, math.log(layers / wanted) ** 2 + proportion**2 + uneven, error)


def _guess(request: Request) -> tuple[float, int]:
    """A width that is about right, and the vocabulary."""
    width, vocabulary = 512.0, rules.VOCABULARIES[0]
    for _ in range(20):
        vocabulary = _padded(request) or rules.vocabulary(request.parameters, width)
        tables = vocabulary * width * (1 if rules.ties_tables(request.parameters, width, vocabulary) else 2)
        rest = max(request.parameters - tables, 0.1 * request.parameters)
        layers = max(2.0, rules.layers_for(width, _active(request)))
        width = math.sqrt(width * math.sqrt(rest / _effort(request) / layers))
    return width, vocabulary


def _effort(request: Request) -> float:
    """About how many parameters a layer has over d^2."""
    experts, choices = rules.experts_for(request.parameters) if request.moe else (1, 1)
    return _ATTENTION + 3 * rules.MLP_RATIO * experts / choices


def _active(request: Request) -> float:
    """About how many parameters a token uses."""
    return request.parameters * (_ATTENTION + 3 * rules.MLP_RATIO) / _effort(request)


def _padded(request: Request) -> int:
    """The vocabulary asked for, as a multiple of 128; 0 for none."""
    return -(-(request.vocabulary or 0) // _VOCABULARY_STEP) * _VOCABULARY_STEP


def _multiples(low: float, high: float) -> Iterable[int]:
    width = 0
    while width < high:
        step = rules.width_step(width + 1)
        width = (width // step + 1) * step
        if width >= low:
            yield width


class _Line:
    """How many parameters a width has at any depth and d_ff."""

    def __init__(self, shape: Shape):
        self._d, self._step = shape.d, 64 if shape.experts else 256 if shape.d >= 2048 else 128
        self._least = math.ceil(shape.d / shape.choices / self._step) * self._step
        one, two = replace(shape, layers=1, d_ff=shape.d), replace(shape, layers=1, d_ff=2 * shape.d)
        small, wide, deep = (_parameters(each) for each in (one, two, replace(one, layers=2)))
        self._layer, self._per_d_ff = deep - small, (wide - small) / shape.d
        self._base = small - self._layer

    def parameters(self, layers: int, d_ff: int) -> float:
        return self._base + layers * (self._layer + (d_ff - self._d) * self._per_d_ff)

    def d_ff_for(self, parameters: float, layers: int) -> int:
        """The d_ff of a size, or the least of the width: multiples of what matrix products like."""
        exact = self._d + ((parameters - self._base) / layers - self._layer) / self._per_d_ff
        return max(self._least, round(exact / self._step) * self._step)


@cache
def _spec(spec: str, arch: str) -> Spec:
    model = f"model m = {arch}(d = 64, layers = 1, heads = 1, kv_heads = 1, d_ff = 64, vocab = 128)"
    return compiler.read_spec_text(f"import {spec}\n{model}")


def _program(shape: Shape) -> Program:
    (program,) = compiler.lower_models(_spec(shape.spec, shape.arch), ["m"], shape.arguments())
    return program


def _parameters(shape: Shape) -> int:
    return count_parameters(_program(shape).graph).total


def _analysis(shape: Shape, request: Request) -> Analysis:
    program = _program(shape)
    compilation = compiler.compile_program(program, _spec(shape.spec, shape.arch).rules)
    setting = Setting(1, request.context, _DTYPE, request.device)
    return analyse(request.name, program.arch, compilation.reference, compilation.fused, setting)
