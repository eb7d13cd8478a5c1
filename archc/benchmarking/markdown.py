"""Results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archc.benchmarking.results import Pair, Result, pairs
from archc.benchmarking.table import device_text, figures, skip_lines
from archc.quantities import with_unit

_HEAD = (
    "case",
    "peer",
    "archc",
    "peer",
    "archc is faster",
    "of the roofline",
    "tokens/s",
    "memory",
    "peer's",
)
_KERNEL_HEAD = _HEAD[:6]


def page(results: Sequence[Result]) -> str:
    """A section for each result: where it is from, whole models, kernels, what was skipped."""
    return "\n".join(line for result in results for line in _section(result))


def _section(result: Result) -> Iterator[str]:
    told, rates = result.environment, result.rates
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    yield f"### {result.subject.title}"
    yield ""
    yield (
        f"{device_text(result)}: copy {rates.bandwidth / 1e9:,.1f} GB/s, matmul "
        f"{rates.flops / 1e9:,.0f} GFLOP/s. {str(told['date'])[:10]}, commit {told['commit']}; {versions}. "
        f"{result.subject.parameters:,} parameters, {with_unit(_weights(result), 'B')} of weights."
    )
    yield ""
    found = pairs(result.findings)
    for kind, head in (("model", _HEAD), ("kernel", _KERNEL_HEAD)):
        chosen = [pair for pair in found if pair.ours.case.kind == kind]
        if chosen:
            yield from table(chosen, head)
            yield ""
    for line in skip_lines(result.findings.skipped):
        yield f"- {line}"
    yield ""


def _weights(result: Result) -> int:
    return result.subject.parameters * {"float32": 4}.get(result.subject.dtype, 2)


def table(shown: Sequence[Pair], head: Sequence[str] = _HEAD) -> Iterator[str]:
    """The lines of a table with a row for each pair."""
    yield f"| {' | '.join(head)} |"
    yield f"|---|---|{'---:|' * (len(head) - 2)}"
    for pair in shown:
        ours, theirs, ratio, noise, *rest = figures(pair)
        cells = (pair.ours.case.title, pair.theirs.contender, ours, theirs, f"{ratio} ± {noise}", *rest)
        yield f"| {' | '.join(cells[: len(head)])} |"
