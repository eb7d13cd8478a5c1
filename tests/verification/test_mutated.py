"""Mutated specs that still compile are other architectures, which nobody wrote: they must hold as well."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from archc import compiler
from archc.analysis.parameters import count_parameters
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.passes.context import Context
from archc.verification.packages import check_package
from archc.verification.stages import check_stages
from tests.frontend.test_fuzz import COMMON, mutated

LARGEST = 300_000  # parameters


def compiled(text: str) -> Compilation | None:
    """The first model of a text, None where it is refused, or too large to run often."""
    try:
        spec = compiler.read_spec_text(text)
        compiler.check(spec)
        for program in compiler.lower_models(spec, spec.models[:1]):
            compilation = compiler.compile_program(program, spec.rules)
            return compilation if count_parameters(compilation.reference).total <= LARGEST else None
    except ArchcError:
        return None
    return None


@pytest.mark.slow
@settings(max_examples=4000, **COMMON)
@given(mutated())
def test_mutated_specs_hold(text: str) -> None:
    compilation = compiled(text)
    if compilation is None:
        return
    context = Context(compilation.context.rules, compilation.context.target)
    try:
        outcomes = [*check_package(compilation), *check_stages(compilation.program, context, each_pass=False)]
    except IndexError:
        return  # a table of positions that is shorter than the sequences here
    # A mutation may well make all that a model computes NaN, on both sides.
    assert [outcome for outcome in outcomes if not outcome.holds and outcome.error == outcome.error] == []
