"""What tests of passes share: small programs, and their graphs after each pass."""

from __future__ import annotations

from archc import compiler
from archc.compiler import standard_rules
from archc.ir.graph import Graph
from archc.ir.program import Program
from archc.passes.context import Context
from archc.passes.pipeline import stages
from archc.target import CUDA, Target
from tests.support import SPECS


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
