"""Kernels of rows that make numbers of rows, as linear maps to one number do, or rows of numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.verification.packages import import_package
from tests.codegen.fused_ops import check_bfloat16, check_float32, fused_ops
from tests.codegen.interpreter import interpreted
from tests.support import compile_model

SPEC = """
arch A(d = 24) {
  forward(x: float[B, T, d], y: float[B, T, d], z: float[B, T, 6]) {
    gated = sigmoid(linear(x, 1) as gate) * linear(y, d) as a
    normed = rms_norm(exp(linear(y, 1, bias = true) as shift) + x, 1e-5) as norm
    numbers = linear(z, 6) as b
    steps = unsqueeze(upcast(numbers)) * exp(parameter([6, 4], wide = true) as decay)
    number, _ = split(linear(z, 16) as c, [1, 15])
    outer = cast_like(exp(upcast(number)) * parameter([d], wide = true) as vector, x)
    outer = outer + linear(cast_like(merge_heads(steps), x), d) as e
    return linear(gated, d) as f + linear(normed, d) as g + linear(outer, d) as h
  }
}
model a = A()
"""


@pytest.mark.parametrize("name", ["linear_sigmoid_mul_linear_exp_rms_norm", "exp_mul", "exp_mul_add"])
@interpreted
def test_numbers_of_rows_and_rows_of_numbers(name: str, tmp_path: Path) -> None:
    op = fused_ops(SPEC, "a", tmp_path)[name]
    torch.manual_seed(1)  # for which the bias's gradient, a single number, is no sum that cancels
    check_float32(op)
    check_bfloat16(op)


READ_TWICE = """arch A(d = 24) { forward(x: float[B, T, d], z: float[B, T, 16]) {
  g = linear(x, 1) as once
  return sigmoid(GATE) * linear(x, d) as a, g } } model m = A()"""


def test_a_map_to_one_number_of_other_rows_is_a_product_of_its_own() -> None:
    fused = compile_model(READ_TWICE.replace("GATE", "linear(z, 1) as gate"), "m").fused
    assert [node.op.name for node in fused.nodes()].count("linear") == 3


@interpreted
def test_a_map_to_one_number_that_others_read_as_well(tmp_path: Path) -> None:
    """Its kernel gives rows and numbers."""
    (op,) = fused_ops(READ_TWICE.replace("GATE", "g"), "m", tmp_path).values()
    torch.manual_seed(1)
    check_float32(op)
    check_bfloat16(op)


@interpreted
def test_a_number_of_each_sequence(tmp_path: Path) -> None:
    """It has fewer dims than the rows that it becomes."""
    spec = """arch A(d = 24) { forward(x: float[B, T, d], number: float[B]) {
      return x * cast_like(sigmoid(unsqueeze(unsqueeze(upcast(number) / 40))), x) } } model m = A()"""
    package = import_package(compile_model(spec, "m"), tmp_path)
    x, number = torch.randn(2, 3, 24), torch.randn(2)
    torch.testing.assert_close(package.Model()(x, number), package.Reference()(x, number))


@interpreted
def test_numbers_of_rows_before_rows_of_one(tmp_path: Path) -> None:
    """The gradient comes in for what has no dim of a row's length, too."""
    spec = """arch A(d = 24) { forward(x: float[B, T, d]) {
      h = linear(x, 4) as a
      return 3 * h, concat(unsqueeze(h), -unsqueeze(h)) } } model m = A()"""
    (op,) = fused_ops(spec, "m", tmp_path).values()
    check_float32(op)
    check_bfloat16(op)
