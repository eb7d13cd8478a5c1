"""Tests that run where Triton interprets its kernels on CPU tensors.

Triton decides when it is imported whether it compiles or interprets.  Such tests therefore run in a second
process, which is started once with TRITON_INTERPRET=1; what they raise is raised here again.  With --gpu
they run in this process, and their kernels on the GPU.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from tests import gpu
from tests.codegen import hazards
from tests.codegen.interpreter_time import save_time
from tests.import_time import collect_rarely, save_import_time


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test of a module in the interpreting process; its arguments must be picklable."""

    @functools.wraps(test)
    def elsewhere(**arguments: Any) -> None:
        if gpu.is_on():
            _fill_with_nan()
            test(**arguments)
        elif os.environ.get("TRITON_INTERPRET") == "1":
            _prepare()
            test(**arguments)
        else:
            _process().submit(_call, test.__module__, test.__name__, arguments).result()

    return pytest.mark.kernels(elsewhere)


@functools.cache
def _process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_interpret, initargs=(hazards.is_on(),))


def _interpret(finds_hazards: bool) -> None:
    """What the process does first: nothing has imported Triton yet."""
    os.environ["TRITON_INTERPRET"] = "1"
    collect_rarely()
    save_import_time()
    if finds_hazards:
        hazards.enter()


def _call(module: str, name: str, arguments: dict[str, Any]) -> None:
    getattr(importlib.import_module(module), name)(**arguments)


def _prepare() -> None:
    """Before each test: random numbers from the start, new memory full of NaN, casts and dots as on GPUs."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    _fill_with_nan()
    _cast_as_gpus_do()
    _widen_dots()
    _index_by_one_element()
    _take_booleans()
    save_time()
    if hazards.is_on():
        hazards.watch()


def _fill_with_nan() -> None:
    """Let memory that nothing writes to show: it is NaN, as PyTorch can have it beside exact repetition."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=gpu.is_on())
    torch.utils.deterministic.fill_uninitialized_memory = True


@functools.cache
def _cast_as_gpus_do() -> None:
    """Let casts of float32 to bfloat16 round to nearest even; Triton's interpreter truncates.

    Those the other way are exact, and here the bits are only moved.
    """
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    truncate = InterpreterBuilder.cast_impl

    def cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16 and target.scalar == tl.float32:
            return _as_float32(source)
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return truncate(self, source, target)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
        return TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)

    InterpreterBuilder.cast_impl = cast


def _as_float32(handle: Any) -> Any:
    """Values of bfloat16, the upper halves of float32's bits."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    bits = np.ascontiguousarray(handle.data).astype(np.uint32) << 16
    return TensorHandle(bits.view(np.float32), tl.float32)


@functools.cache
def _widen_dots() -> None:
    """Let dots of bfloat16 multiply numbers; Triton's interpreter multiplies the integers that hold them."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    narrow = InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        return _as_float32(handle) if handle.dtype.scalar == tl.bfloat16 else handle

    def dot(self: Any, a: Any, b: Any, *further: Any) -> Any:
        return narrow(self, widened(a), widened(b), *further)

    InterpreterBuilder.create_dot = dot


@functools.cache
def _index_by_one_element() -> None:
    """Let tensors of one element be numbers of Python; Triton 3.6 asks of NumPy what 2.4 no longer does."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


@functools.cache
def _take_booleans() -> None:
    """Let kernels be given a bool; Triton 3.6's interpreter fails over the four bytes that it gives it."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        if not isinstance(argument, bool):
            return convert(argument)
        return tl.tensor(interpreter.TensorHandle(np.array([argument], np.bool_), tl.int1), tl.int1)

    interpreter._implicit_cvt = converted
