"""Mixtures of experts: any body in any storage, inputs that trap a router, no waiting for the device."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from archc.ir.ops import experts as ops
from archc.verification.packages import check_package, stored_tensors
from tests.codegen.expert_bodies import BODIES, spec_of
from tests.support import SPECS, build, compile_model, distance, scramble

both = pytest.mark.parametrize("kind", ["Model", "Reference"])


@pytest.mark.parametrize("name", BODIES)
def test_any_body_is_what_the_plain_loop_computes(name: str, tmp_path: Path) -> None:
    body, shapes = BODIES[name]
    compilation = compile_model(spec_of(body), "a")
    assert "grouped_linear" in {node.op.name for node in compilation.fused.nodes()}
    assert [str(outcome) for outcome in check_package(compilation) if not outcome.holds] == []
    package = build(spec_of(body), "a", tmp_path)
    stored = {key: tuple(tensor.shape) for key, tensor in stored_tensors(package.Model())}
    assert stored.items() >= shapes.items()


@pytest.mark.parametrize("name", [name for name in BODIES if "wide = " in BODIES[name][0]])
def test_sums_are_scaled_and_rounded_where_they_are_made(name: str) -> None:
    ops = {node.op.name for node in compile_model(spec_of(BODIES[name][0]), "a").fused.nodes()}
    assert "weighted_combine" in ops
    assert not ops & {"mul", "cast_like", "combine", "at_choice", "dispatch"}


def test_what_cannot_be_grouped_runs_in_the_loop() -> None:
    body = """y = experts e in chosen of 5 as experts {
                return weights[e] * cast_like(linear(upcast(x), 12, wide = true) as up, x)
              }"""
    compilation = compile_model(spec_of(body), "a")
    assert any("one by one" in remark.text for remark in compilation.report.remarks)
    assert [str(outcome) for outcome in check_package(compilation) if not outcome.holds] == []


@pytest.mark.parametrize(
    ("value", "op"),
    [
        ("matmul(x, parameter([12, 12]) as w)", "matmul"),
        ("merge_heads(linear(split_heads(x, 3), 4, bias = true) as w)", "linear"),
        ("merge_heads(head_linear(split_heads(x, 3), 4) as w)", "head_linear"),
        ("merge_heads(merge_heads(split_heads(split_heads(x, 3), 2) * parameter([2, 2]) as w))", "mul"),
    ],
)
@torch.no_grad()
def test_weights_that_are_no_vector_of_a_row_are_read_in_the_loop(
    value: str, op: str, tmp_path: Path
) -> None:
    spec = spec_of(f"y = experts e in chosen of 5 as experts {{ return weights[e] * {value} }}")
    (told,) = [r.text for r in compile_model(spec, "a").report.remarks if "one by one" in r.text]
    assert f"`{op}` reads more than a vector" in told
    package = build(spec, "a", tmp_path)
    model, reference = (getattr(package, kind)(dtype=torch.float64) for kind in ("Model", "Reference"))
    scramble(model)
    reference.load_state_dict(model.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x), reference(x))


def test_tables_of_experts_are_one() -> None:
    body = """values, places = top_k(x, 3)
              y = experts e in chosen of 5 as experts {
                return weights[e] * merge_heads(embedding(places, 12, 4) as table)
              }"""
    compilation = compile_model(spec_of(body), "a")
    assert any("lookups in one table" in remark.text for remark in compilation.report.remarks)
    assert [str(outcome) for outcome in check_package(compilation) if not outcome.holds] == []


EXPERTS, WIDTH, HIDDEN = 8, 12, 10
ROUTED = """
    arch A(count = 8, choices = 2) {
      forward(x: float[B, T, 12], scores: float[B, T, count]) {
        weights, chosen = top_k(scores, choices)
        y = experts e in chosen of count as experts {
          return weights[e] * linear(silu(linear(x, 10) as up), 12) as down
        }
        return y
      }
    }
    model a = A()
"""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_expert(scores: Tensor) -> Tensor:
    """All tokens choose expert 3, and then the first of those that are left."""
    return torch.zeros_like(scores).index_fill(-1, torch.tensor([3]), 1.0)


# name -> tokens, experts, choices, and what becomes of normal scores
TRAPS = {
    "all scores negative": (7, EXPERTS, 2, lambda s: -s.abs() - 1),
    "exact ties": (7, EXPERTS, 3, lambda s: s.round()),
    "all equal": (5, EXPERTS, 2, torch.ones_like),
    "one expert takes every token": (9, EXPERTS, 2, one_expert),
    "experts with no token": (2, EXPERTS, 1, lambda s: s),
    "one token": (1, EXPERTS, 2, lambda s: s),
    "all experts": (6, EXPERTS, EXPERTS, lambda s: s),
    "512 experts": (4, 512, 8, lambda s: s),
    "scores of any size": (5, EXPERTS, 2, lambda s: (40 * s).sinh()),
}


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], ModuleType]:
    made: dict[tuple[int, int], ModuleType] = {}
    for _, count, choices, _ in TRAPS.values():
        if (count, choices) not in made:
            settings = {"count": str(count), "choices": str(choices)}
            made[count, choices] = build(ROUTED, "a", tmp_path_factory.mktemp("routed"), settings)
    return made


def by_hand(model: torch.nn.Module, x: Tensor, scores: Tensor, choices: int) -> Tensor:
    """Token by token, choice by choice, from the checkpoint's tensors."""
    tensors = {name: tensor.double() for name, tensor in stored_tensors(model)}
    y = torch.zeros_like(x)
    for place in torch.cartesian_prod(*map(torch.arange, x.shape[:2])).view(-1, 2).tolist():
        row, own = x[*place], scores[*place].tolist()
        for e in sorted(range(len(own)), key=lambda e: (-own[e], e))[:choices]:
            up, down = tensors[f"experts.{e}.up.weight"], tensors[f"experts.{e}.down.weight"]
            y[*place] += own[e] * (down @ torch.nn.functional.silu(up @ row))
    return y


@both
@pytest.mark.parametrize("name", TRAPS)
def test_traps(routed: dict[tuple[int, int], ModuleType], name: str, kind: str) -> None:
    tokens, count, choices, change = TRAPS[name]
    model = getattr(routed[count, choices], kind)(dtype=torch.float64)
    scramble(model)
    x, scores = noise(2, tokens, WIDTH), change(noise(2, tokens, count, seed=1))
    with torch.no_grad():
        y = model(x, scores)
        assert distance(y, by_hand(model, x, scores, choices)) < 1e-13
        assert torch.equal(model(x, scores), y)


def test_a_huge_bias_chooses_and_does_not_weigh(tmp_path: Path) -> None:
    """Sigmoids of about 1e-9 beside a bias of 1e4: its expert is chosen, the weights never see the bias."""
    spec = """
        arch A() {
          forward(x: float[B, T, 8]) {
            scores = sigmoid(upcast(x))
            biased = scores + parameter([8], init = fill(0)) as bias
            _, chosen = top_k(group_mask(biased, 4, 2, score = sum_top_two, fill = minus_infinity), 3)
            weights = gather(scores, chosen)
            return weights = weights / (sum(weights) + 1e-20) * 2.5, chosen = chosen
          }
        }
        model a = A()
    """
    package = build(spec, "a", tmp_path)
    x = noise(1, 3, 8).float() - 20
    for kind in ("Model", "Reference"):
        model = getattr(package, kind)()
        with torch.no_grad():
            model.bias[5] = 1e4
        weights, chosen = model(x)
        assert (chosen == 5).any(-1).all()
        scores = x.double().sigmoid()
        truth = scores.gather(-1, chosen)
        assert distance(weights, 2.5 * truth / truth.sum(-1, keepdim=True)) < 1e-6
        assert ((chosen // 2).unique().numel()) >= 2  # expert 5's group, and the best of the others


@both
def test_loads_are_counted_and_balanced_by_the_bias(tmp_path: Path, kind: str) -> None:
    """Tokens that all like the same experts come to use all, when the bias follows the loads."""
    package = build(SPECS / "deepseek_v3.arch", "deepseek_v3_tiny", tmp_path, {"layers": "2", "groups": "1"})
    experts, model = package.experts, getattr(package, kind)()
    scramble(model)
    biases = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    tokens = torch.randint(0, 160, (4, 32), generator=torch.Generator().manual_seed(0))
    spread: list[float] = []
    for _ in range(60):
        with experts.counted() as loads, torch.no_grad():
            model(tokens)
        assert [load.shape for load in loads] == [(12,)]
        assert int(loads[0].sum()) == tokens.numel() * 3
        spread.append(float(loads[0].max() / loads[0].float().mean()))
        experts.balance(biases, loads, rate=0.02)
    assert spread[-1] < 1.3 < spread[0]
    with pytest.raises(ValueError, match="shorter"):
        experts.balance(biases, [], rate=0.02)


@both
def test_a_wide_parameter_decides_by_what_bfloat16_cannot_tell(kind: str, tmp_path: Path) -> None:
    """A bias stays in float32 in a model in bfloat16, as it is in the checkpoint, where it comes first."""
    spec = """
        arch A() {
          forward(x: float[B, T, 4]) {
            bias = parameter([4], init = fill(0), trained = false, wide = true) as bias
            scores = sigmoid(linear(x, 4, wide = true) as gate)
            values, chosen = top_k(scores + bias, 1)
            return chosen, y = linear(x, 4) as up
          }
        }
        model a = A()
    """
    package = build(spec, "a", tmp_path)
    checkpoint = {
        "bias": torch.tensor([1.0, 1.0 + 1e-4, 1.0 + 3e-4, 1.0 + 2e-4]),
        "gate.weight": torch.zeros(4, 4, dtype=torch.bfloat16),
        "up.weight": torch.zeros(4, 4, dtype=torch.bfloat16),
    }
    save_file(checkpoint, tmp_path / "model.safetensors")
    model = getattr(package, kind).from_pretrained(tmp_path / "model.safetensors")
    assert model.up.dtype == torch.bfloat16
    assert torch.equal(model.bias, checkpoint["bias"])
    chosen = model(torch.randn(2, 3, 4, dtype=torch.bfloat16))
    assert bool((next(each for each in chosen if each.dtype == torch.int64) == 2).all())
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == checkpoint.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in checkpoint.items())
    assert getattr(package, kind)(dtype=torch.float64).bias.dtype == torch.float64
    assert [str(outcome) for outcome in check_package(compile_model(spec, "a")) if not outcome.holds] == []


def example(count: int = 6, rows: int = 150) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, gradients, weights and ends: one expert has no row, one has most."""
    sizes = torch.tensor([10, 0, 90, 1, 40, 9])[:count]
    return noise(rows, 16), noise(rows, 24, seed=1), noise(count, 24, 16, seed=2), sizes.cumsum(0)


def test_products_without_a_host_are_those_with_one(routed: dict[tuple[int, int], ModuleType]) -> None:
    """What a GPU runs gives the same numbers, and asks for none: fake tensors go through it."""
    experts = routed[EXPERTS, 2].experts
    x, dy, weight, ends = example()
    torch.testing.assert_close(
        experts._grouped_product(x, weight, ends), experts._grouped_linear(x, weight, ends, None)
    )
    outer = experts._grouped_outer(dy, x, ends)
    torch.testing.assert_close(experts._grouped_outer_product(dy, x, ends), outer)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, dy, weight, ends = map(mode.from_tensor, example())
        assert experts._grouped_product(x, weight, ends).shape == dy.shape
        assert experts._grouped_outer_product(dy, x, ends).shape == weight.shape
        with pytest.raises(DataDependentOutputException):
            ends.tolist()


# Rows of experts: two of a kind side by side and apart, some alone, some with none, some with many.
ROWS_OF_EXPERTS = (3, 0, 12, 12, 300, 3, 1, 0, 20, 12, 300)


@pytest.mark.parametrize("outputs", [24, 7])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_on_a_cpu_are_those_of_each_expert(
    outputs: int, flipped: bool, dtype: torch.dtype, routed: dict[tuple[int, int], ModuleType]
) -> None:
    """Two at a time or alone, gathered or not, with offsets or without; who has no rows is not looked at."""
    experts = routed[EXPERTS, 2].experts
    sizes = torch.tensor(ROWS_OF_EXPERTS)
    ends, tokens = sizes.cumsum(0), torch.arange(int(sizes.sum())).flip(0) // 2
    weight = noise(len(sizes), outputs, 16, seed=2).to(dtype)
    weight[sizes == 0] = torch.nan
    weight = weight.mT.contiguous().mT if flipped else weight
    x, offset = noise(len(tokens), 16).to(dtype), noise(len(sizes), outputs, seed=3).to(dtype)
    for gathered, added in itertools.product((None, tokens), (None, offset)):
        rows = x if gathered is None else x[gathered]
        unfused = ops.grouped_linear(rows, weight, ends, added)
        wide = None if added is None else added.double()
        truth = ops.grouped_linear(rows.double(), weight.double(), ends, wide)
        found = experts._product_on_cpu(x, weight, ends, added, gathered)
        assert found.dtype == dtype
        assert distance(found, truth) <= max(1.01 * distance(unfused, truth), 3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weighted_sums_on_a_cpu(dtype: torch.dtype, routed: dict[tuple[int, int], ModuleType]) -> None:
    experts = routed[EXPERTS, 2].experts
    places = torch.randperm(2 * 5 * 3, generator=torch.Generator().manual_seed(0)).view(2, 5, 3)
    y, weights = noise(30, 7).to(dtype), noise(2, 5, 3, seed=1).to(dtype)
    unfused = ops.weighted_combine(y, weights, places)
    truth = ops.weighted_combine(y.double(), weights.double(), places)
    found = experts.weighted_combine(y, weights, places)
    assert found.shape == (2, 5, 7)
    assert found.dtype == dtype
    assert distance(found, truth) <= max(1.01 * distance(unfused, truth), 1e-7)


def test_products_of_pytorch_in_bfloat16(routed: dict[tuple[int, int], ModuleType]) -> None:
    """PyTorch's grouped product, whichever way the matrices lie, with groups that are empty."""
    experts = routed[EXPERTS, 2].experts
    x, dy, weight, ends = (each.bfloat16() if each.is_floating_point() else each for each in example())
    assert experts._takes_grouped(x, *weight.shape[1:])
    assert not experts._takes_grouped(x, 12, 16)
    wide = x.double(), dy.double(), weight.double()
    for found, truth in (
        (experts._grouped_product(x, weight, ends), experts._grouped_linear(wide[0], wide[2], ends, None)),
        (
            experts._grouped_product(dy, weight.mT, ends),
            experts._grouped_linear(wide[1], wide[2].mT, ends, None),
        ),
        (experts._grouped_outer_product(dy, x, ends), experts._grouped_outer(wide[1], wide[0], ends)),
    ):
        assert found.dtype == torch.bfloat16
        assert distance(found, truth) < 2**-8


def test_gradients_of_grouped_products(routed: dict[tuple[int, int], ModuleType]) -> None:
    experts = routed[EXPERTS, 2].experts
    leaves = [each.requires_grad_() for each in (noise(10, 5), noise(6, 4, 5), noise(6, 4))]
    few = torch.tensor([1, 1, 7, 7, 9, 10])
    assert torch.autograd.gradcheck(
        lambda x, weight, offset: experts.grouped_linear(x, weight, few, offset), leaves
    )


def test_one_graph_whatever_is_chosen(routed: dict[tuple[int, int], ModuleType]) -> None:
    """No break where tokens choose: compiled with gradients, and exported for any number of tokens."""
    model = routed[EXPERTS, 2].Model()
    scramble(model)
    x, scores = noise(2, 7, WIDTH).float(), noise(2, 7, EXPERTS, seed=1).float()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    compiled(leaf, scores).square().sum().backward()
    plain = x.clone().requires_grad_()
    model(plain, scores).square().sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    exported = torch.export.export(model, (x, scores), dynamic_shapes=({1: tokens}, {1: tokens})).module()
    for length in (3, 20):
        x, scores = noise(2, length, WIDTH).float(), noise(2, length, EXPERTS, seed=2).float()
        for chosen in (scores, one_expert(scores)):
            torch.testing.assert_close(exported(x, chosen), model(x, chosen))


def test_a_meta_model_takes_no_memory_and_runs_on_shapes(routed: dict[tuple[int, int], ModuleType]) -> None:
    model = routed[EXPERTS, 2].Model(device="meta", dtype=torch.bfloat16)
    x, scores = (torch.empty(2, 5, n, dtype=torch.bfloat16, device="meta") for n in (WIDTH, EXPERTS))
    assert model(x, scores).shape == (2, 5, WIDTH)
