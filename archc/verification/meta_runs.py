"""A package's kernels and its model, run on tensors without memory at their real widths."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch.fx.experimental import _config

from archc.compiler import Compilation
from archc.ir.graph import Graph
from archc.ir.program import given_inputs, most_tokens, sequences, tokens_of
from archc.ir.types import DType, size_of
from archc.verification.kernel_runs import KernelRuns, Sizes, run_backward


def run_kernels(package: Any, compilation: Compilation, dtype: torch.dtype, sizes: Sizes) -> None:
    """Run each fused op of a package, forward and backward, on tensors without memory."""
    _run_on_meta(package)
    runs = KernelRuns(package.kernels, dtype, sizes)
    with torch.device("meta"):
        for plan in compilation.planner.kernels:
            runs.run(plan)


def _run_on_meta(package: Any) -> None:
    """Let kernels run on tensors without memory: the launches of ops stand in for their fakes."""
    parts = [getattr(package, name) for name in ("kernels", "experts") if hasattr(package, name)]
    for op in (value for part in parts for value in vars(part).values()):
        if isinstance(op, CustomOpDef):
            op.register_fake(op._init_fn)
        elif isinstance(op, package.kernels._Op):
            torch.library.register_fake(op.overload, op.launch, allow_override=True)
    package.kernels._runs_triton = lambda _: True
    package.kernels._room = lambda _: 0


def run_model(package: Any, compilation: Compilation, dtype: torch.dtype, sizes: Sizes) -> None:
    """Run the model with one layer of each class, for few tokens and for many, in training and not."""
    _run_on_meta(package)
    model = package.Model(dtype=dtype, device="meta")
    for name, layers in list(model.named_children()):
        if isinstance(layers, nn.ModuleList):
            setattr(model, name, nn.ModuleList({type(layer): layer for layer in layers}.values()))
    graph = compilation.program.graph
    labels = given_inputs(graph).index(tokens_of(graph, sequences(graph)[-1]))
    # Nobody knows without memory which tokens experts that run one by one are given: each has all.
    with patch.object(_config, "meta_nonzero_assume_all_nonzero", True):
        for shape, training in itertools.product(_shapes(compilation, sizes), (False, True)):
            given = list(_inputs(graph, dtype, *shape))
            model.train(training)
            if training:
                has_loss = hasattr(model, "log_probs") and shape[1] > 1  # a single token has none
                run_backward(model.loss(*given, given[labels]) if has_loss else model(*given))
            else:
                with torch.no_grad():
                    model(*given)


def _shapes(compilation: Compilation, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Few tokens and many, all of them in sequences no longer than there are positions for."""
    most = most_tokens(compilation.reference)
    for batch, length in ((1, sizes.length), sizes.many):
        own = min(length, most or length)
        yield batch * length // own, own


def _inputs(graph: Graph, dtype: torch.dtype, batch: int, length: int) -> Iterator[Tensor]:
    kinds = {DType.I64: torch.int64, DType.BOOL: torch.bool, DType.F32: torch.float32}
    sizes = defaultdict(lambda: length, B=batch)
    for type_ in map(graph.type, given_inputs(graph)):
        shape = [size_of(dim, sizes) for dim in type_.shape]
        yield torch.empty(shape, dtype=kinds.get(type_.dtype, dtype), device="meta")
