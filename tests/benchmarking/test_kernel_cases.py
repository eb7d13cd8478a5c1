"""Kernels are timed on what the model gives them, beside peers that compute the same."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.benchmarking.kernel_cases import (
    BACKWARD,
    BOTH,
    FORWARD,
    KernelCase,
    _marked,
    _prepare,
    _several,
    kernel_cases,
)
from archc.benchmarking.kernel_peers import APART, BY_DYNAMO, FUSED, LIGER, OP_BY_OP, PEERS, has_peer
from archc.benchmarking.kernel_places import Place, places
from archc.benchmarking.models import Models
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.probes import Rates
from archc.benchmarking.recording import Arguments, Calls, recorded
from archc.benchmarking.recordings import Kind, Recordings
from archc.benchmarking.results import OURS
from archc.benchmarking.scale import Scale
from archc.benchmarking.timing import ClockTimer
from archc.benchmarking.turn import Bench
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import OpKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.norms.norm_plan import NormKernel
from tests.benchmarking.clocks import Ticking
from tests.codegen.test_capacity import CROWDED
from tests.codegen.test_key_choice import CHOOSING
from tests.support import SPECS, compile_model, distance, few

CPU = torch.device("cpu")
TINY = Scale(prompt=6, batches=(1, 3), context=5, rows=(2, 4), share=0.3)
BENCH = Bench(CPU, torch.float64, ClockTimer(Ticking()), Ticking(), Rates(1e10, 1e11), 0.1)
SPEC_OF = {"qwen3_tiny": "qwen3", "llama3_tiny": "llama3", "olmo2_tiny": "olmo2", "gpt2_tiny": "gpt2",
           "palm_tiny": "palm", "mistral_tiny": "mistral", "mixtral_tiny": "mixtral"}  # fmt: skip


@pytest.fixture(scope="module", params=few(SPEC_OF, 2))
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    compilation = compile_model(SPECS / f"{SPEC_OF[request.param]}.arch", request.param)
    return Models(compilation, tmp_path_factory.mktemp(request.param), CPU, torch.float64)


def values(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_every_kernel_is_timed_every_way(models: Models) -> None:
    found = places(models.compilation)
    ways = {place.name: set() for place in found}
    for case in kernel_cases(found, models, TINY, BENCH):
        ways[case.place.name].add((case.way, tuple(case.kind.shown.items())))
    for place in found:
        rows = [(("B", 2), ("T", 4)), (("B", 1), ("T", 6)), (("B", 1), ("S", 5)), (("B", 3), ("S", 5))]
        expected = {(FORWARD, each) for each in rows} if place.name != "embedding" else set()
        expected |= {(BACKWARD, rows[0])} if place.name != "sort_choices" else set()
        if place.linear is not None:
            expected = {(FORWARD, rows[2])}
        assert ways[place.name] == ({(BOTH, rows[0])} if isinstance(place.plan, LossKernel) else expected)


def test_peers_compute_the_same(models: Models) -> None:
    found = places(models.compilation)
    recordings = Recordings(models, found)
    for case in kernel_cases(found, models, TINY, BENCH):
        for call in recordings.of(case.place, case.kind):
            truth = values(call.function(*call.arguments))
            for peer in (OP_BY_OP, APART, FUSED):
                if has_peer(case.place, peer):
                    try:
                        function, arguments = PEERS[peer](case.place, call)
                    except SkippedError:
                        continue
                    result = values(function(*arguments))
                    if case.place.feature == "attention" and peer == FUSED:
                        result = (result[0].transpose(1, 2),)
                    for value, true in zip(result, truth, strict=True):
                        assert distance(value, true) < 1e-6, (case.place.name, peer, case.kind)


@pytest.mark.parametrize("models", ["gpt2_tiny", "mixtral_tiny"], indirect=True)
def test_what_torchdynamo_compiles_it_compiles_whole(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler behind it, which takes long."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found = [place for place in places(models.compilation) if has_peer(place, BY_DYNAMO)]
    recordings = Recordings(models, found)
    for place in found:
        call = recordings.of(place, Kind(2, 4, trains=True))[0]
        function, arguments = PEERS[BY_DYNAMO](place, call)
        for value, true in zip(
            values(function(*arguments)), values(call.function(*call.arguments)), strict=True
        ):
            assert distance(value, true) < 1e-6, place.name


def test_gradients_of_both_sides_are_the_same(models: Models) -> None:
    found = places(models.compilation)
    recordings = Recordings(models, found)
    for case in kernel_cases(found, models, TINY, BENCH):
        if case.way != FORWARD:
            recordings.of(case.place, case.kind)  # which draws the model's weights when first asked for
            torch.manual_seed(0)
            ours = _prepare(case, OURS, recordings)()
            torch.manual_seed(0)
            theirs = _prepare(case, OP_BY_OP, recordings)()
            assert any(gradient is not None for gradient in values(ours))
            for value, true in zip(values(ours), values(theirs), strict=True):
                assert (value is None) == (true is None)
                assert true is None or distance(value, true) < 1e-6, case.place.name


def test_costs_are_those_of_the_tensors(models: Models) -> None:
    """Forward, an op of its own reads its operands and writes its results."""
    found = places(models.compilation)
    recordings = Recordings(models, found)
    for place in found:
        kind = Kind(1, 6)
        if isinstance(place.plan, OpKernel):
            call = recordings.of(place, kind)[0]
            tensors = [*call.arguments, *values(call.function(*call.arguments))]
            moved = sum(t.numel() * t.element_size() for t in tensors)
            work = place.forward(kind.shape, 8)
            tables = sum(t.numel() for t in tensors if t.shape[:2] == (1, 6) and t.dtype == torch.float32)
            assert work.bytes == pytest.approx(moved, abs=8 * tables + 1)
            assert 0 < place.backward(kind.shape, 8).bytes <= 3 * work.bytes
        if place.linear is not None:
            kind = Kind(1, 1, 5)
            call = recordings.of(place, kind)[0]
            tensors = [t for t in (*call.arguments, *values(call.function(*call.arguments))) if t is not None]
            assert place.forward(kind.shape, 8).bytes == sum(t.nbytes for t in tensors)
        if place.name == "embedding":
            tokens, table = recordings.of(place, kind)[0].arguments
            rows = 8 * table.shape[1] * tokens.numel()
            assert place.backward(kind.shape, 8).bytes == tokens.nbytes + rows + table.nbytes


def test_kernels_of_experts_are_timed_where_there_are_experts(models: Models) -> None:
    names = {place.name for place in _places(models) if place.module == "experts"}
    routed = {"dispatched_swiglu", "grouped_linear", "sort_choices", "weighted_combine"}
    assert names == (routed if "mixtral" in models.compilation.program.name else set())
    kind = Kind(2, 4, trains=True)
    recordings = Recordings(models, _places(models))
    for place in _places(models):
        if place.feature in ("dispatched_swiglu", "grouped_linear"):
            names = (operand.name for operand in place.node.op.operands)
            given = dict(zip(names, recordings.of(place, kind)[0].arguments, strict=False))
            weight, ends = given["weight"], given["ends"]
            work = place.forward(kind.shape, 8)
            assert work.matrix == 2 * int(ends[-1]) * weight[0].numel()
            read = min(int(ends[-1]), len(weight)) * weight[0].numel()
            assert 8 * read < work.bytes < 8 * read + 8 * 4 * int(ends[-1]) * sum(weight.shape[1:])


# Attention that differs by what it sees, by heads, by scale, and by what is added to scores.
MIXED = """
arch Mixed(d, vocab) {
  block Attention(x, heads, mask, scale, bias = none) {
    q = split_heads(linear(x, 8 * heads) as q, heads)
    k = split_heads(linear(x, 16) as k, 2)
    v = split_heads(linear(x, 16) as v, 2)
    return linear(merge_heads(attention(q, k, v, mask = mask, scale = scale, bias = bias)), d) as o
  }

  forward(tokens: [B, T]) {
    x = rms_norm(embedding(tokens, vocab, d) as embed, 1e-5, weight = false)
    x = x + Attention(x, 4, causal, 0.3) as a
    x = x + Attention(x, 2, causal, 0.3) as b
    x = x + Attention(x, 4, causal, 0.4) as c
    x = x + Attention(x, 4, sliding(3), 0.3) as e
    x = x + Attention(x, 4, causal, 0.3, alibi_bias(positions(x), key_positions(x), 4)) as f
    return linear(x, vocab) as head
  }
}
model mixed = Mixed(d = 32, vocab = 40)
"""


def test_attention_stands_beside_that_of_its_own_layers(tmp_path: Path) -> None:
    models = Models(compile_model(MIXED, "mixed"), tmp_path, CPU, torch.float64)
    found = [p for p in places(models.compilation) if isinstance(p.plan, AttentionKernel | NormKernel)]
    assert len(found) == 6
    recordings = Recordings(models, found)
    for case in kernel_cases(found, models, TINY, BENCH):
        (call,) = recordings.of(case.place, case.kind)
        (plain,) = values(call.plain(*call.plain_arguments))
        assert distance(plain, call.function(*call.arguments)) < 1e-6
        if case.way == BACKWARD:
            ours, theirs = [], []
            for name, gradients in ((OURS, ours), (OP_BY_OP, theirs)):
                torch.manual_seed(0)
                gradients += _prepare(case, name, recordings)()
            assert all(map(torch.allclose, ours, theirs))
            assert len(ours) == len(theirs) == (1 if case.place.feature == "rms_norm" else 3)
        if has_peer(case.place, FUSED):
            mask = case.place.node.attributes.get("mask")
            with pytest.raises(SkippedError) if mask and mask.kind == "sliding" else nullcontext():
                function, arguments = PEERS[FUSED](case.place, call)
                function(*arguments)


@pytest.mark.parametrize("spec", ["deepseek_v3", "switch"])
def test_products_that_are_no_fusions_are_timed(spec: str, tmp_path: Path) -> None:
    """Those into float32, and of what values are made from."""
    compilation = compile_model(SPECS / f"{spec}.arch", f"{spec}_tiny")
    models = Models(compilation, tmp_path, CPU, torch.float64)
    found = [place for place in places(compilation) if place.name in ("absorb_values", "wide_linear")]
    assert len(found) == 2
    recordings, step = Recordings(models, found), Kind(3, 1, 5)
    for place in found:
        call = recordings.of(place, step)[0]
        assert distance(call.plain(*call.plain_arguments), call.function(*call.arguments)) < 1e-12
        assert place.forward(step.shape, 8).matrix > 0


def test_choices_of_keys_are_timed(tmp_path: Path) -> None:
    """Of a prompt and of a token; they have no gradient."""
    models = Models(
        compile_model(CHOOSING.replace("MASK", "causal"), "choosing"), tmp_path, CPU, torch.float64
    )
    (place,) = (place for place in places(models.compilation) if place.name == "select_keys")
    recordings = Recordings(models, [place])
    cases = list(kernel_cases([place], models, TINY, BENCH))
    assert {(case.way, case.kind.tokens > 1) for case in cases} == {(FORWARD, True), (FORWARD, False)}
    for case in cases:
        call = recordings.of(place, case.kind)[0]
        assert torch.equal(call.plain(*call.plain_arguments), call.function(*call.arguments))


def test_recurrences_are_timed(tmp_path: Path) -> None:
    """A prompt and a training step beside products of chunks, one token beside the op."""
    models = Models(compile_model(SPECS / "mamba2.arch", "mamba2_tiny"), tmp_path, CPU, torch.float64)
    (place,) = (place for place in places(models.compilation) if place.feature == "recur")
    recordings = Recordings(models, [place])
    ways = []
    for case in kernel_cases([place], models, TINY, BENCH):
        ways.append((case.way, case.kind.tokens))
        call = recordings.of(place, case.kind)[0]
        ours, theirs = (_copies(call.arguments) for _ in range(2))
        assert distance(call.plain(*theirs), call.function(*ours)) < 1e-12
        by_chunks = getattr(call.plain, "__name__", "") == "_linear_attention_chunks"
        assert by_chunks == (case.kind.tokens > 1)
        if case.way == BACKWARD:
            ours, theirs = (_gradients(case, name, recordings) for name in (OURS, OP_BY_OP))
            assert all(map(torch.allclose, ours, theirs))
            q, k, v, _, log_decay, state = call.arguments
            assert state is None
            in_dtype, in_float32 = q.numel() + k.numel(), v.numel() + log_decay.numel()
            moved = 2 * 8 * in_dtype + 2 * 4 * in_float32 + 4 * v.numel() + 8 * q.shape[:2].numel()
            assert place.backward(case.kind.shape, 8).bytes == moved
    assert sorted(ways) == [(BACKWARD, 4), (FORWARD, 1), (FORWARD, 1), (FORWARD, 4), (FORWARD, 6)]


def _copies(arguments: Arguments) -> Arguments:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)


def _gradients(case: KernelCase, contender: str, recordings: Recordings) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return values(_prepare(case, contender, recordings)())


@pytest.mark.parametrize("spec", ["mixtral", "deepseek_v3"])
def test_grouped_products_of_pytorch_are_those_of_experts(spec: str, tmp_path: Path) -> None:
    """In float32: PyTorch's take no float64."""
    compilation = compile_model(SPECS / f"{spec}.arch", f"{spec}_tiny")
    models = Models(compilation, tmp_path, CPU, torch.float32)
    found = [place for place in _places(models) if place.module == "experts"]
    recordings = Recordings(models, found)
    tried = [place for place in found if has_peer(place, FUSED)]
    assert len(tried) == 3
    for place in tried:
        for kind in (Kind(1, 6), Kind(2, 4, trains=True), Kind(3, 1, context=5)):
            for call in recordings.of(place, kind):
                function, arguments = PEERS[FUSED](place, call)
                assert distance(function(*arguments), call.function(*call.arguments)) < 1e-6


def test_all_peers_are_offered_where_they_exist(models: Models) -> None:
    offered = {place.feature: {peer for peer in PEERS if has_peer(place, peer)} for place in _places(models)}
    of_experts = {"grouped_linear", "dispatched_swiglu", "weighted_combine"}
    for feature, peers in offered.items():
        assert OP_BY_OP in peers
        assert (BY_DYNAMO in peers) == (feature not in of_experts | {"sort_choices"})
        assert FUSED in peers or feature not in of_experts
        if feature in ("add_rms_norm", "swiglu", "rope_qkv", "linear_cross_entropy"):
            assert LIGER in peers


def _places(models: Models) -> list[Place]:
    return places(models.compilation)


def test_only_operands_with_gradients_are_marked(models: Models) -> None:
    for place in _places(models):
        if isinstance(place.plan, OpKernel | RouterKernel):
            given = tuple(torch.zeros(2) for _ in place.plan.op.operands)
            marked = [tensor.requires_grad for tensor in _marked(place, given)]
            chooses = isinstance(
                place.plan, RouterKernel
            )  # its scores may be float32, and need not all have one
            assert marked == [
                f"d{o.name}" in place.plan.op.gradients if chooses else o.dtype == "float"
                for o in place.plan.op.operands
            ]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_calls_take_turns_over_several_sets_of_tensors(models: Models, count: int) -> None:
    place = next(place for place in _places(models) if hasattr(place.plan, "op"))
    call = Recordings(models, _places(models)).of(place, Kind(1, 6))[0]
    calls = _several(place, [call] * count)
    assert len(calls) == max(count, 16)
    assert calls[:count] == [call] * count
    for copy in calls[count:]:
        for tensor, original in zip(copy.arguments, call.arguments, strict=True):
            assert torch.equal(tensor, original)
            assert tensor.data_ptr() != original.data_ptr()


class _Module:
    pass


def test_calls_with_all_operands_are_kept_and_no_more_than_enough() -> None:
    module = _Module()
    module.f = lambda *arguments: len(arguments)  # type: ignore[attr-defined]
    original = module.f  # type: ignore[attr-defined]
    calls = Calls(enough=3 * 8)
    one = torch.ones(1, dtype=torch.float64)
    with recorded(module, ["f", "absent"], calls):
        assert module.f(None, one) == 2  # type: ignore[attr-defined]
        module.f(0 * one, one)  # type: ignore[attr-defined]
        for _ in range(5):
            module.f(one, one)  # type: ignore[attr-defined]
        module.f(None, one)  # type: ignore[attr-defined]
    assert module.f is original  # type: ignore[attr-defined]
    assert [len(arguments) for arguments in calls.kept["f"]] == [2, 2]
    assert all(argument is one for arguments in calls.kept["f"] for argument in arguments)


def test_what_experts_can_take_is_timed_beside_counting(tmp_path: Path) -> None:
    models = Models(compile_model(CROWDED, "crowded"), tmp_path, CPU, torch.float64)
    (place,) = (place for place in places(models.compilation) if place.name == "within_capacity")
    recordings = Recordings(models, [place])
    cases = list(kernel_cases([place], models, TINY, BENCH))
    assert {case.way for case in cases} == {FORWARD, BACKWARD}
    for case in cases:
        results = []
        for name in (OURS, OP_BY_OP):
            torch.manual_seed(0)
            results.append(values(_prepare(case, name, recordings)()))
        for value, true in zip(*results, strict=True):
            assert torch.equal(value, true)


def test_the_row_that_a_head_reads_may_be_read_by_another_linear_map() -> None:
    """As that of values beside logits is: its kernel is one of the places that are measured."""
    found = places(compile_model(SPECS.parent / "tests/architectures/judged.arch", "judged"))
    assert "add_rms_norm_and_linear" in {place.name for place in found}
