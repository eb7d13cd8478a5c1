"""What tests of passes share: small programs, and their graphs after each pass."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from archc import compiler
from archc.compiler import standard_rules
from archc.ir.graph import Graph
from archc.ir.program import Program
from archc.passes.context import Context
from archc.passes.pipeline import stages
from archc.target import CUDA, Target
from archc.verification.packages import stored_tensors
from tests.support import SPECS, scramble


def tiny(family: str) -> Program:
    spec = compiler.read_spec_file(SPECS / f"{family}.arch")
    (program,) = compiler.lower_models(spec, [f"{family}_tiny"])
    return program


def program_of(body: str, params: str = "d = 24") -> Program:
    text = f"arch A({params}) {{ forward(tokens: [B, T]) {{ {body} }} }}\nmodel a = A()"
    (program,) = compiler.lower_models(compiler.read_spec_text(text), ["a"])
    return program


def staged(program: Program, target: Target = CUDA) -> tuple[dict[str, Graph], Context]:
    context = Context(standard_rules(), target)
    return dict(stages(program.graph, context)), context


def ops(graph: Graph) -> list[str]:
    return [node.op.name for part in graph.walk() for node in part.nodes()]


def saved_and_loaded(package: ModuleType, folder: Path) -> tuple[Any, Any, Any]:
    """A model, one read from what it saved, and the reference of that; all are the same, bit for bit."""
    model = package.Model()
    scramble(model)
    model.save_pretrained(folder)
    again = package.Model.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    reference = package.Reference.from_pretrained(folder)
    tensors = dict(stored_tensors(model))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored_tensors(reference))
    return model, again, reference
