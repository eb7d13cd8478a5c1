"""The script that times a block of experts: its sides agree, and the page has its figures."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import click
import pytest
import torch

from archc.benchmarking.results import pairs
from tests.support import ROOT

SMALL = {"d": 32, "experts": 6, "choices": 2, "d_ff": 24}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmarks_moe_block", folder / "moe_block.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))  # where its page comes from
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.mark.filterwarnings("ignore:decoding on a CPU")  # without a compiler
def test_every_case_is_timed_against_every_peer(script: ModuleType) -> None:
    scale = script.Scale(torch.float32, SMALL, (("decode", 2, 1), ("prefill", 1, 5)))
    result = script.measure(0.0, torch.device("cpu"), scale)
    found = pairs(result.findings)
    assert {pair.theirs.contender for pair in found} == set(script.PEERS)
    assert {pair.ours.case.title for pair in found} == {"decode, B 2, T 1", "prefill, B 1, T 5"}
    assert all(measurement.peak for measurement in result.findings.measurements)


def test_what_computes_something_else_is_not_timed(script: ModuleType) -> None:
    value = torch.ones(3)
    with pytest.raises(click.ClickException, match="from the generated block"):
        script._check("peer", value, value + 1e-3)
