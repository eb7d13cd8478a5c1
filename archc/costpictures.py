"""`archc analyze --plot`: a model's kernels under a device's roofline, and caches of several models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archc.analysis.analysis import Analysis
from archc.analysis.cache import cache_size
from archc.analysis.roofline import KernelTime
from archc.analyzer import Analysed
from archc.ir.program import most_tokens
from archc.plotting import picture
from archc.quantities import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PHASES = {"prefill": "o", "decode": "s"}
_LONGEST = 1 << 20


def draw_roofline(analysis: Analysis, path: Path) -> None:
    """Write the picture of a model's kernels in prefill and decoding.  Raises `ArchcError`."""
    setting = analysis.setting
    phases = {name: phase for name in _PHASES if (phase := getattr(analysis.roofline, name)) is not None}
    points = [
        (name, kernel, kernel.seconds / phase.seconds)
        for name, phase in phases.items()
        for kernel in phase.kernels
        if kernel.flops
    ]
    kinds = list(dict.fromkeys(kernel.kind for _, kernel, _ in points))
    with picture(path, 8.5, 5.2) as axes:
        axes.set(xscale="log", yscale="log")
        _draw_roofs(axes, analysis, [kernel for _, kernel, _ in points])
        for name, kernel, share in sorted(points, key=lambda point: -point[2]):
            axes.scatter(
                [kernel.intensity],
                [kernel.flops / kernel.seconds],
                25 + 500 * share,
                color=f"C{kinds.index(kernel.kind) % 10}",
                marker=_PHASES[name],
                edgecolor="white",
                linewidth=0.8,
                zorder=3,
            )
        for place, kind in enumerate(kinds):
            shares = [f"{name} {share:.0%}" for name, kernel, share in points if kernel.kind == kind]
            axes.plot([], [], "o", color=f"C{place % 10}", label=f"{kind}: {', '.join(shares)}")
        for name, marker in _PHASES.items():
            axes.plot([], [], marker, color="0.4", markerfacecolor="none", label=f"in {name}")
        axes.set_xlabel("FLOPs for each byte of memory read or written")
        axes.set_ylabel("FLOP/s that the device allows")
        axes.set_title(f"{analysis.model}: {setting.text}", loc="left")
        axes.legend(
            title="kernels, with their share of the time;\nbelow the roof by what a launch costs",
            title_fontsize=8,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=8,
        )


def _draw_roofs(axes: Axes, analysis: Analysis, points: Sequence[KernelTime]) -> None:
    """The slope of the memory, and what matrix and vector units reach."""
    device = analysis.setting.device
    matrix = device.matrix_peak(analysis.setting.dtype)
    low = min([p.intensity for p in points], default=1.0) / 6
    high = max([p.intensity for p in points] + [matrix / device.bandwidth]) * 4
    for peak, style, what in ((matrix, "-", "matrix units"), (device.vector, "--", "vector units")):
        ridge = peak / device.bandwidth
        axes.plot(
            [low, ridge, high], [low * device.bandwidth, peak, peak], style, color="0.25", linewidth=1.2
        )
        label = f"{what}: {with_unit(peak, 'FLOP/s')}"
        axes.text(high / 1.1, peak * 1.7, label, ha="right", fontsize=8)
    axes.set_xlim(low, high)
    slowest = min([p.flops / p.seconds for p in points], default=matrix)
    axes.set_ylim(min(slowest, low * device.bandwidth) / 2, matrix * 4)
    between = math.sqrt(matrix * device.vector)
    label = f"memory: {with_unit(device.bandwidth, 'B/s')}"
    axes.text(1.3 * between / device.bandwidth, between, label, va="top", fontsize=8)


def draw_caches(found: Sequence[Analysed], path: Path) -> None:
    """Write the picture of what one sequence's cache takes, by its length.  Raises `ArchcError`."""
    lines: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for each in found:
        if sizes := _sizes(each):
            lines.setdefault(sizes, []).append(each.analysis.model)
    largest = sorted(lines, key=lambda sizes: -sizes[-1][1] / sizes[-1][0])
    with picture(path, 8.0, 5.0) as axes:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for place, sizes in enumerate(largest):
            style = ("-", "--", ":", "-.")[place // 10 % 4]
            label = ",\n".join(lines[sizes])
            axes.plot(*zip(*sizes, strict=True), style, color=f"C{place % 10}", linewidth=1.6, label=label)
        axes.xaxis.set_major_formatter(lambda tokens, _: _tokens_text(tokens))
        axes.yaxis.set_major_formatter(lambda size, _: with_unit(size, "B"))
        axes.set_xlabel("tokens of the sequence")
        axes.set_ylabel(f"bytes of its cache in {found[0].analysis.setting.dtype}")
        axes.set_title("What one sequence keeps for decoding", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _sizes(each: Analysed) -> tuple[tuple[int, int], ...]:
    """Tokens, and the bytes of their cache; empty for a model without one."""
    longest = most_tokens(each.reference) or _LONGEST
    lengths = sorted({*(1 << power for power in range(7, longest.bit_length())), longest})
    element = each.analysis.setting.element
    sizes = tuple((n, cache_size(each.reference, 1, n, element).bytes) for n in lengths)
    return sizes if sizes[-1][1] else ()


def _tokens_text(tokens: float) -> str:
    """Powers of two as people say them: 4K, 1M."""
    for size, suffix in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens >= size:
            return f"{tokens / size:.0f}{suffix}"
    return f"{tokens:.0f}"
