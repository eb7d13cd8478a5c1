"""What a model could be tuned for, and which measurements it is built by."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from archc.codegen.kernels.kernel_plan import Kernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_kernel import linear_maps
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.compiler import Compilation
from archc.tuned import DTYPES, ROWS, Entry, Problem, Tuned

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def problems(compilation: Compilation, dtype: str) -> list[Problem]:
    """The linear maps of a decoding step, those of most weights first."""
    shapes = linear_maps(compilation.planner.parts, compilation.planner.cut)
    found = [Problem(rows, *shape, dtype) for shape in shapes for rows in ROWS]
    return sorted(found, key=lambda problem: -problem.elements)


def problems_after(compilation: Compilation, dtype: str) -> dict[Problem, LinearAfterKernel]:
    """Those of one row that the kernel of an op before them could compute, and that kernel."""
    return _after(compilation.planner.kernels, dtype)


def measured(kernels: Sequence[Kernel], tuned: Tuned) -> list[Entry]:
    """The measurements by which linear maps of these kernels have them."""
    choices = [choice for kernel in kernels if isinstance(kernel, LinearKernel) for choice in kernel.choices]
    asked = [Problem(each.rows, each.outputs, each.inputs, each.dtype) for each in choices]
    asked += [problem for dtype in DTYPES for problem in _after(kernels, dtype)]
    return [entry for problem in asked if (entry := tuned.find(problem))]


def _after(kernels: Sequence[Kernel], dtype: str) -> dict[Problem, LinearAfterKernel]:
    joined = [kernel for kernel in kernels if isinstance(kernel, LinearAfterKernel)]
    shapes = ((kernel, shape) for kernel in joined for shape, _ in kernel.maps)
    return {Problem(1, *shape, dtype, kernel.after): kernel for kernel, shape in shapes}


def installed_triton() -> str | None:
    """The release of Triton; None where it is not installed."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def gpu_at_hand() -> str | None:
    """The name of the first NVIDIA GPU, as PyTorch has it too; None where the driver tells of none."""
    for path in sorted(_NVIDIA.glob("*/information")):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "Model":
                return value.strip()
    return None
