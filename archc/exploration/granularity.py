"""`archc search` of a model with experts: as many parameters in finer or coarser experts.

Experts f times as many and f times as narrow, of which a token takes f times as many, leave parameters and
products as they are.  What changes is the router, and how many rows the experts' results have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archc.analysis.laws.routed import EXPANSION, EXPANSIONS, GRANULARITIES, krajewski
from archc.analysis.parameters import Parameters, count_parameters
from archc.analysis.pareto import front
from archc.analysis.serving import Workload
from archc.errors import ArchcError, SpecError
from archc.exploration.searcher import rate_of
from archc.exploration.variants import Original
from archc.ir.program import Program

EXPERTS, CHOICES, SHARED = "experts", "choices", "shared"
WIDTHS = "expert_d_ff", "d_ff"  # of an expert: the first of them that an arch has
ROUTED, ROUTER = "experts", "router"  # roles of weights
_TOLERANCE = 0.01  # of N and of what a token uses: biases of experts are for each of them
_MOST = 5  # halvings or doublings, from one end of the law's granularities to the other


def has_experts(program: Program) -> bool:
    """Whether a model has routed experts, by its graph."""
    return ROUTED in count_parameters(program.graph).by_role


@dataclass(frozen=True)
class Mixture(Original):
    """The model with experts that a search of granularities starts from."""

    def __post_init__(self) -> None:
        missing = [name for name in (EXPERTS, CHOICES) if not self._size(name)]
        if missing or not self._size(self.width_name):
            raise ArchcError(
                f"the arch {self.program.arch} has experts, but no parameter "
                f"`{(*missing, ' or '.join(WIDTHS))[0]}` with a size to vary; it has "
                f"{', '.join(self.program.parameters)}"
            )
        if self.expansion not in EXPANSIONS:
            raise ArchcError(
                f"Krajewski's law was fitted at {EXPANSION:g} experts for each that a token takes, and archc "
                f"applies it from {EXPANSIONS.low:g} to {EXPANSIONS.high:g}; {self.program.name} has "
                f"{self.expansion:.3g}"
            )
        if self.grain.choices not in GRANULARITIES:
            raise ArchcError(
                f"Krajewski's law knows granularities of {GRANULARITIES.low:g} to {GRANULARITIES.high:g}; a "
                f"token of {self.program.name} takes {self.grain.choices} experts"
            )

    @property
    def width_name(self) -> str:
        """The parameter that an expert's width is."""
        return next((name for name in WIDTHS if name in self.program.parameters), WIDTHS[0])

    def _size(self, name: str) -> int:
        """A parameter that is a size; 0 where it is none."""
        value = self.program.parameters.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    @property
    def grain(self) -> Grain:
        """The granularity that the model has."""
        return Grain(*(self._size(name) for name in (EXPERTS, CHOICES, self.width_name, SHARED)))

    @property
    def expansion(self) -> float:
        """Feed-forward parameters over those that a token uses."""
        return self.grain.experts / self.grain.choices

    def settings_of(self, grain: Grain) -> dict[str, str]:
        """The arguments that a granularity differs in."""
        values = {EXPERTS: grain.experts, CHOICES: grain.choices, self.width_name: grain.width}
        if grain.shared:
            values[SHARED] = grain.shared
        return {name: str(value) for name, value in values.items()}


@dataclass(frozen=True)
class Grain:
    """How fine experts are.

    experts: in a layer
    choices: that a token takes: the granularity G, as an expert has 1/G of what they hold together
    width:   of one
    shared:  experts of the same width that every token takes, where an arch counts them; else 0
    """

    experts: int
    choices: int
    width: int
    shared: int

    def finer(self, power: int) -> Grain | None:
        """Experts 2^power times finer, or coarser below 0; None where a size does not divide."""
        many = (_scaled(size, power) for size in (self.experts, self.choices))
        sizes = (*many, _scaled(self.width, -power), _scaled(self.shared, power))
        whole = [size for size in sizes if size is not None]
        return Grain(*whole) if len(whole) == len(sizes) else None


def _scaled(size: int, power: int) -> int | None:
    if power >= 0:
        return size << power
    return None if size % (1 << -power) else size >> -power


@dataclass(frozen=True)
class GrainPoint:
    """A granularity with what was found of it.

    parameters: the law's N: of all experts and all else but the vocabulary's tables and routers
    router:     parameters that choose experts
    loss:       in nats a token, above that of the model that the search started from
    rate:       tokens of answers a second
    """

    grain: Grain
    parameters: int
    router: int
    loss: float
    rate: float


@dataclass(frozen=True)
class GranularitySearch:
    """What a search found; the base is one of the points.  The coarsest first, in `front` the least loss.

    dense: parameters of MLPs that every token passes, of which the law knows none
    """

    base: GrainPoint
    points: tuple[GrainPoint, ...]
    front: tuple[GrainPoint, ...]
    dense: int


def search_granularity(mixture: Mixture, load: Workload) -> GranularitySearch:
    """The front of all granularities of a model; raises `ArchcError` where it can have no other."""
    start = count_parameters(mixture.program.graph)
    found = list(_variants(mixture, start))
    if len(found) < 2:
        names = ", ".join(mixture.settings_of(mixture.grain))
        raise ArchcError(
            f"{mixture.program.name} has no other granularity of {GRANULARITIES.low:g} to "
            f"{GRANULARITIES.high:g}: {names} cannot be doubled and halved without a change of the "
            "parameters outside of routers"
        )
    reference = _size_loss(mixture.grain, start)
    points = tuple(
        GrainPoint(
            grain,
            _law_parameters(counts),
            counts.by_role.get(ROUTER, 0),
            _size_loss(grain, counts) - reference,
            rate_of(program, mixture, load),
        )
        for grain, counts, program in found
    )
    base = next(point for point in points if point.grain == mixture.grain)
    best = front(points, cost=lambda p: p.loss, gain=lambda p: p.rate)
    return GranularitySearch(base, points, tuple(best), start.by_role.get("mlp", 0))


def _variants(mixture: Mixture, start: Parameters) -> Iterator[tuple[Grain, Parameters, Program]]:
    """The granularities that the law knows and the arch can have with as many parameters, coarsest first."""
    for power in range(-_MOST, _MOST + 1):
        grain = mixture.grain.finer(power)
        if grain is None or grain.choices not in GRANULARITIES:
            continue
        try:
            program = mixture.changed(mixture.settings_of(grain))
        except SpecError:
            continue  # other sizes do not go with it, such as groups of experts
        counts = count_parameters(program.graph)
        if _is_as_large(counts, start):
            yield grain, counts, program


def _is_as_large(counts: Parameters, start: Parameters) -> bool:
    """Whether routers alone differ: else the width is that of more than the experts."""
    pairs = (
        (_law_parameters(counts), _law_parameters(start)),
        (counts.active - counts.by_role.get(ROUTER, 0), start.active - start.by_role.get(ROUTER, 0)),
    )
    return all(abs(one / other - 1) <= _TOLERANCE for one, other in pairs)


def _law_parameters(counts: Parameters) -> int:
    """Krajewski's N, d^2 (8 E + 4) for each block: it counts no routers."""
    return counts.non_embedding - counts.by_role.get(ROUTER, 0)


def _size_loss(grain: Grain, counts: Parameters) -> float:
    return krajewski(grain.choices).size_term(_law_parameters(counts))
