"""Kernels that are wrong where Triton's interpreter gives the right values: each hazard is found."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.codegen import hazards
from tests.codegen.interpreter import interpreted
from tests.gpu import is_on

pytestmark = pytest.mark.skipif(is_on(), reason="Triton's interpreter is where hazards are found")


@triton.jit
def copied(x_ptr, y_ptr, width, stride, BLOCK: tl.constexpr):
    """A row a program."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + column, mask=column < width)
    tl.store(y_ptr + row * width + column, x, mask=column < width)


@triton.jit
def shifted(x_ptr, ROW: tl.constexpr):
    """Each row becomes the next one, which another program may have changed by then."""
    place = tl.program_id(0) * ROW + tl.arange(0, ROW)
    tl.store(x_ptr + place, tl.load(x_ptr + place + ROW))


@triton.jit
def counted(y_ptr, ATOMIC: tl.constexpr):
    if ATOMIC:
        tl.atomic_add(y_ptr, 1.0)
    else:
        tl.store(y_ptr, tl.load(y_ptr) + 1.0)


@triton.jit
def told(y_ptr, EACH: tl.constexpr):
    """All programs tell of one thing, or each of itself."""
    tl.store(y_ptr, tl.program_id(0) + 1.0 if EACH else 7.0)


@triton.jit
def scattered(y_ptr, EACH: tl.constexpr):
    """Pairs of lanes store at one address."""
    lane = tl.arange(0, 4)
    tl.store(y_ptr + lane // 2, (lane if EACH else lane // 2).to(tl.float32))


@triton.jit
def reversed_(x_ptr, y_ptr, BARRIER: tl.constexpr):
    """By way of memory, as threads must who want each other's values."""
    lane = tl.arange(0, 4)
    tl.store(y_ptr + lane, tl.load(x_ptr + lane))
    if BARRIER:
        tl.debug_barrier()
    tl.store(x_ptr + lane, tl.load(y_ptr + 3 - lane))


@triton.jit
def hinted(x_ptr, start, step, MULTIPLE: tl.constexpr, CONTIGUOUS: tl.constexpr, CONSTANT: tl.constexpr):
    lane = tl.multiple_of(start + tl.arange(0, 4) * step, MULTIPLE)
    place = tl.max_constancy(tl.max_contiguous(lane, CONTIGUOUS), CONSTANT)
    tl.store(x_ptr + place, 0.0)


def _run(kernel, programs, *arguments, **constants):
    with hazards.watching():
        kernel[(programs,)](*arguments, **constants)


def _fails(words, *launch, **constants):
    with pytest.raises(Exception, match=words):
        _run(*launch, **constants)


@interpreted
def test_accesses_outside_of_tensors() -> None:
    """Those after the end of a tensor, and those between its rows."""
    rows, few = torch.randn(3, 8), torch.randn(3, 5)
    _run(copied, 3, rows[:, :5], few, 5, 8, BLOCK=8)
    _fails("loads outside", copied, 3, rows[:, :5], few, 6, 8, BLOCK=8)
    _fails("loads outside", copied, 3, rows[:, :5], few, 5, 9, BLOCK=8)
    _fails("stores outside", copied, 3, rows, few.view(-1)[:14], 5, 8, BLOCK=8)
    _fails("loads outside", copied, 1, rows[:0], few, 5, 8, BLOCK=8)


@interpreted
def test_loads_of_what_nothing_has_written() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        new, y = torch.empty(3, 8, dtype=dtype), torch.empty(3, 5, dtype=dtype)
        new[:, :5] = 0
        _run(copied, 3, new, y, 5, 8, BLOCK=8)
        _fails("nothing has written", copied, 3, new, torch.empty(3, 6, dtype=dtype), 6, 8, BLOCK=8)


@interpreted
def test_programs_that_meet_at_an_address() -> None:
    _run(shifted, 1, torch.randn(8), ROW=4)
    _fails("stores what another program loads", shifted, 2, torch.randn(12), ROW=4)
    _run(told, 2, torch.zeros(1), EACH=False)
    _fails("stores what another program stores", told, 2, torch.zeros(1), EACH=True)
    _run(counted, 3, torch.zeros(1), ATOMIC=True)
    _fails("loads what another program stores", counted, 2, torch.zeros(1), ATOMIC=False)


@interpreted
def test_threads_that_meet_at_an_address() -> None:
    _run(scattered, 1, torch.zeros(2), EACH=False)
    _fails("two values at one address", scattered, 1, torch.zeros(2), EACH=True)
    _run(reversed_, 1, torch.randn(4), torch.empty(4), BARRIER=True)
    _fails("no barrier", reversed_, 1, torch.randn(4), torch.empty(4), BARRIER=False)


@interpreted
def test_hints_that_are_not_true() -> None:
    right = {"MULTIPLE": 2, "CONTIGUOUS": 4, "CONSTANT": 1}
    _run(hinted, 1, torch.zeros(16), 8, 1, **right)
    _fails("divisibility = 2", hinted, 1, torch.zeros(16), 7, 1, **right)
    _fails("contiguity = 4", hinted, 1, torch.zeros(16), 8, 2, **right)
    _fails("constancy = 2", hinted, 1, torch.zeros(16), 8, 1, **right | {"CONSTANT": 2})


@interpreted
def test_offsets_that_overflow() -> None:
    """The interpreter's numbers have as many bits as a GPU's."""
    _run(copied, 2, torch.zeros(0), torch.zeros(0), 0, 2**30, BLOCK=1)
    _fails("int32 overflow", copied, 3, torch.zeros(0), torch.zeros(0), 0, 2**30, BLOCK=1)
