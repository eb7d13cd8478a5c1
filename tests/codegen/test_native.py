"""Native code for few rows on a CPU: as accurate as PyTorch's, used where it may be and only there."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from archc.ir.ops import experts as ops
from tests.codegen.fused_ops import fused_ops, inputs, results, widened
from tests.codegen.kernel_cases import CASES, rule_of_case, spec_of_case
from tests.support import (
    SPECS,
    build,
    compile_quickly,
    distance,
    few,
    needs_compiler,
    scramble,
    shared_folder,
)

DTYPES = [torch.float32, torch.bfloat16]
LEVEL = {torch.float32: 1e-7, torch.bfloat16: 2e-4}  # below this all are as good
_SOME = (
    "add_layer_norm/wide",
    "add_rms_norm/none",
    "qk_norm_rope_qkv/interleaved",
    "rope_qk_norm_qkv/block",
    "scaled_turns",
    "waves",
)
# Ops that have no native code, some as they mix dtypes.
_PYTORCHS = ("latent_rope", "latent_rope_qkv", "position_scale", "decay", "decayed")
_WITHOUT_GRADIENT = ("gated_heads", "gated_norm", "mixed_norm")  # ops of rows: PyTorch's is used


@functools.cache
def _package(spec: str, model: str) -> ModuleType:
    return build(SPECS / f"{spec}.arch", model, Path(mkdtemp()))


@pytest.fixture(autouse=True)
def _compiler(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Native code is compiled once for all test processes of a run, fully optimised for two models."""
    folder = shared_folder(tmp_path_factory, "native")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    full = {"package", "experts"} & {*request.fixturenames} or "[smollm2" in request.node.name
    if not full and request.node.get_closest_marker("slow") is None:
        compile_quickly(folder, monkeypatch)


@pytest.fixture
def package() -> Iterator[ModuleType]:
    """A package with its native code, which is off again after the test."""
    found = _package("smollm2", "smollm2_tiny")
    native = found.native
    assert native.build()
    yield found
    native._functions.clear()


def _called(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions of native code that are called from here on."""
    called: list[str] = []
    original = native.call

    def call(name: str, *arguments: object) -> None:
        called.append(name)
        original(name, *arguments)

    monkeypatch.setattr(native, "call", call)
    return called


@pytest.fixture
def calls(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return _called(package.native, monkeypatch)


def _case(name: str) -> object:
    """A fused op: some of each family by default."""
    return name if name in _SOME else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("spec", ["smollm2", "qwen3", "gemma2", "gpt2", "olmo2", "palm", "mixtral"])
def test_helpers_are_those_that_are_called(spec: str) -> None:
    """No function is there that the model's own do not need."""
    file = Path(str(_package(spec, f"{spec}_tiny").native.__file__)).with_suffix(".cpp")
    text = re.sub("//.*", "", file.read_text())
    inline = r"(?:inline )?(?:__attribute__\(\(always_inline\)\) )?"
    defined = re.findall(rf"^{inline}(?:void|float|constexpr const T\*) (\w+)", text, re.MULTILINE)
    assert {"dot", "tiled_outputs"} < {*defined}
    assert [name for name in defined if len(re.findall(rf"\b{name}\b", text)) < 2] == []
    assert all(f"math::{name}(" in text for name in re.findall(r"using std::(\w+);", text))


_BARE = """
arch Bare(d = 16) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 9, d) as embed
    q, k, v = split(linear(x, 3 * d) as qkv, 3)
    q, k = rotate(split_heads(q, 2), rope(10000)), rotate(split_heads(k, 2), rope(10000))
    return linear(merge_heads(attention(q, k, split_heads(v, 2), mask = causal)), 9) as head
  }
}
model bare = Bare()
"""


@needs_compiler
def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation's gradient works on rows, as norms do, but needs no norm in the model."""
    native = build(_BARE, "bare", tmp_path).native
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands: list[list[str]] = []
    run = native._run
    monkeypatch.setattr(native, "_run", lambda command: commands.append(command) or run(command))
    for compiled in (True, False):
        assert native.build()
        assert any("-shared" in command for command in commands) is compiled
        commands.clear()
    native._functions.clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 64])
@needs_compiler
def test_accuracy(package: ModuleType, calls: list[str], rows: int, dtype: torch.dtype) -> None:
    """Less than a register of columns, whole ones, what is left over, long sums; with a bias and without."""
    for outputs, width in ((37, 100), (16, 64), (5, 7), (64, 33), (3, 576), (37, 16390)):
        x, weight, bias = (
            torch.randn(*shape).to(dtype) for shape in ((rows, 1, width), (outputs, width), (outputs,))
        )
        for given in (None, bias):
            truth = F.linear(x.double(), weight.double(), None if given is None else given.double())
            with torch.no_grad():
                y = package.native.linear(x, weight, given)
            assert y.shape == truth.shape
            assert y.dtype == dtype
            assert distance(y, truth) <= 1.05 * distance(F.linear(x, weight, given), truth) + LEVEL[dtype]
    assert len(calls) == 12


@needs_compiler
def test_threads_share_the_outputs(package: ModuleType) -> None:
    weight = torch.randn(333, 70)
    before = torch.get_num_threads()
    for rows in (2, 9):
        x, found = torch.randn(rows, 70), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(package.native.linear(x, weight))
        torch.set_num_threads(before)
        assert all(torch.equal(found[0], each) for each in found)


@needs_compiler
def test_threads_share_the_layers(package: ModuleType, calls: list[str]) -> None:
    """Whoever does what, a token is the same."""
    model = package.Model()
    scramble(model, spread=0.1)
    tokens, before = torch.randint(40, (3, 9)), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        cache = model.new_cache(3, 9)
        with torch.no_grad():
            found.append(torch.cat([model(token, cache=cache) for token in tokens.split(1, 1)], 1))
    torch.set_num_threads(before)
    assert calls.count("decode_layers") == 3 * 9
    assert all(torch.equal(found[0], each) for each in found)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3.4e38, 1e-40])
@pytest.mark.parametrize("rows", [1, 6])
@needs_compiler
def test_extreme_values(package: ModuleType, rows: int, value: float) -> None:
    """Rounded to bfloat16 as PyTorch does it; what is below the normal range may become zero."""
    x = torch.tensor([[value, 1.0]]).bfloat16().repeat(rows, 32)
    weight = torch.zeros(8, 64).bfloat16()
    weight[0, 0], weight[1, 0], weight[2, 1] = 1.0, -1.0, 1.0
    with torch.no_grad():
        y = package.native.linear(x, weight)
    assert torch.equal(y.isnan(), F.linear(x, weight).isnan())
    least = torch.finfo(torch.bfloat16).tiny
    torch.testing.assert_close(y.nan_to_num(), F.linear(x, weight).nan_to_num(), rtol=0, atol=least)


@pytest.mark.parametrize("name", [_case(name) for name in CASES if rule_of_case(name) not in _PYTORCHS])
@needs_compiler
def test_fused_ops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is as near to float64 as its plain form, as its gradient is, whatever the number of threads."""
    op = fused_ops(spec_of_case(name), "a", Path(mkdtemp()))[rule_of_case(name)]
    native = op.kernels.native
    optional = {operand.name for operand in op.operands if operand.optional}
    for dtype, absent in itertools.product(DTYPES, [set(), optional] if optional else [set()]):
        tensors = inputs(op, dtype, batch=3, length=11)  # rows in three parts
        given = {key: None if key in absent else tensor for key, tensor in tensors.items()}
        truths = results(op, op.exact, widened(given))
        plain = results(op, op.plain, given)
        assert native.build()
        found = _called(native, monkeypatch)
        values, otherwise = results(op, op.plain, given), _otherwise_shared(results, op, op.plain, given)
        with torch.no_grad():
            alone = op.plain(*given.values())
        native._functions.clear()
        trained = [] if op.name in _WITHOUT_GRADIENT else [op.name, f"{op.name}_backward"]
        assert found == [*trained, *trained, op.name]
        assert all(torch.equal(values[key], each) for key, each in otherwise.items())
        outputs = dict(zip(op.outputs, alone, strict=True))
        assert not trained or all(torch.equal(values[key], each) for key, each in outputs.items())
        values |= outputs
        for key, truth in truths.items():
            assert (values[key].dtype, values[key].shape) == (plain[key].dtype, plain[key].shape)
            assert distance(values[key], truth) <= 1.02 * distance(plain[key], truth) + LEVEL[dtype], key


def _otherwise_shared(function: Callable[..., Any], *given: Any) -> Any:
    """The function's result for another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    try:
        return function(*given)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("natively", "batch"), [("loop", 2), ("layer", 5), ("op", 2), ("op", 66)])
@pytest.mark.parametrize("spec", few(["smollm2", "gemma2", "qwen3", "olmo2", "palm", "gpt2"], 2))
@needs_compiler
def test_decoding(
    spec: str, natively: str, batch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits after a cache are as near to float64 as PyTorch's are, by calls of loops, layers or ops."""
    package = _package(spec, f"{spec}_tiny")
    exact, rounded = package.Model(dtype=torch.float64), package.Model(dtype=dtype)
    scramble(exact, spread=0.1)
    rounded.load_state_dict(exact.state_dict())
    exact.load_state_dict(rounded.state_dict())  # the same rounded weights
    tokens = torch.randint(40, (batch, 12))
    truth = _step_by_step(exact, tokens)
    native = package.native
    assert native.build()
    calls = _called(native, monkeypatch)
    _at_once(native, {"loop": 1000, "layer": 1, "op": 0}[natively], monkeypatch)
    found = _step_by_step(rounded, tokens)
    layers = rounded.layers if hasattr(rounded, "layers") else rounded.h
    expected = {"loop": 1, "layer": len(layers), "op": 0}
    assert calls.count("decode_layers") == 12 * expected[natively]
    assert any("attention" in name for name in calls) == (natively == "op")
    native._functions.clear()
    plain = _step_by_step(rounded, tokens)
    assert distance(found, truth) <= 1.1 * distance(plain, truth) + LEVEL[dtype]


def _at_once(native: ModuleType, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let native code take at most some layers in a call."""
    original = native.layer_addresses

    def addresses(layers: Sized, *given: object) -> object:
        return original(layers, *given) if len(layers) <= most else None

    monkeypatch.setattr(native, "layer_addresses", addresses)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", ["qwen3", "gemma2"])
@needs_compiler
def test_a_loop_is_its_layers(spec: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for all layers, of one kind or of two, computes what one for each does."""
    package = _package(spec, f"{spec}_tiny")
    native = package.native
    assert native.build()
    model = package.Model(dtype=dtype).requires_grad_(False)
    scramble(model, spread=0.1)
    tokens, layers = torch.randint(40, (3, 5)), [*model.layers]
    for count in (len(layers), len(layers) - 1, 1):
        model.layers = torch.nn.ModuleList(layers[:count])
        with monkeypatch.context() as patch:
            calls = _called(native, patch)
            together = _step_by_step(model, tokens)
            assert calls.count("decode_layers") == 5
            _at_once(native, min(count - 1, 1), patch)
            assert torch.equal(_step_by_step(model, tokens), together) or count == 1
            assert calls.count("decode_layers") == 5 + (5 * count if count > 1 else 0)
    native._functions.clear()


@pytest.mark.parametrize("prompt", [3, 5, 8])
@pytest.mark.parametrize("most", [1000, 0])
@needs_compiler
def test_a_window_after_a_prompt(prompt: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a window of 5, as much, and more: its ring has gone round, and goes round again."""
    package = _package("gemma2", "gemma2_tiny")
    native = package.native
    assert native.build()
    calls = _called(native, monkeypatch)
    _at_once(native, most, monkeypatch)
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    scramble(model, spread=0.1)
    tokens = torch.randint(40, (2, prompt + 9))
    cache = model.new_cache(2, prompt + 9)
    with torch.no_grad():
        found = [model(piece, cache=cache) for piece in tokens.split([prompt, *[1] * 9], 1)]
        native._functions.clear()
        assert distance(torch.cat(found, 1), model(tokens)) < 1e-5
    assert len([name for name in calls if "decode" in name or "attention" in name]) == (9 if most else 18)


@needs_compiler
def test_weights_that_change_between_tokens(package: ModuleType, calls: list[str]) -> None:
    """Replaced, written to, moved in memory, cast: each token reads those that are there."""
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    scramble(model, spread=0.1)
    token, layer = torch.randint(40, (1, 1)), model.layers[0]

    def replace() -> None:
        layer.o_proj = torch.nn.Parameter(torch.randn_like(layer.o_proj), requires_grad=False)

    def point_elsewhere() -> None:
        layer.o_proj.data = torch.randn_like(layer.o_proj)

    def load() -> None:
        model.load_state_dict({name: torch.randn_like(each) / 9 for name, each in model.state_dict().items()})

    def assign() -> None:
        changed = {name: torch.randn_like(each) / 9 for name, each in model.state_dict().items()}
        model.load_state_dict(changed, assign=True)

    def cast() -> None:
        model.bfloat16()

    found = [_step_by_step(model, token)]
    for change in (replace, point_elsewhere, load, assign, cast):
        change()
        found.append(_step_by_step(model, token))
        assert distance(found[-1], model(token)) < (1e-5 if change is not cast else 0.02)
        assert not torch.equal(found[-1], found[-2])
    assert calls.count("decode_layers") == len(found)


@needs_compiler
def test_layers_that_somebody_has_changed(package: ModuleType, calls: list[str]) -> None:
    """Hooks, another `forward`, another class: such a layer is called as any module, the others natively."""
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    token, layer = torch.randint(40, (1, 1)), model.layers[1]
    seen: list[str] = []
    hook = layer.register_forward_hook(lambda *_: seen.append("hook"))
    _step_by_step(model, token)
    hook.remove()

    def forward(*given: object) -> object:
        seen.append("forward")
        return type(layer).forward(layer, *given)

    layer.forward = forward
    _step_by_step(model, token)
    del layer.forward
    layer.__class__ = type("Own", (type(layer),), {})
    _step_by_step(model, token)
    assert seen == ["hook", "forward"]
    assert calls.count("decode_layers") == 3 * (len(model.layers) - 1)


@needs_compiler
def test_a_cache_of_another_dtype(package: ModuleType, calls: list[str]) -> None:
    """Native code does not take it, whose numbers it would misread."""
    model = package.Model(dtype=torch.bfloat16).requires_grad_(False)
    cache = model.new_cache(1, 4)
    native = package.native
    assert native.layer_addresses(model.layers, torch.bfloat16, cache) is not None
    assert native.layer_addresses(model.float().layers, torch.float32, cache) is None
    assert not calls


@needs_compiler
def test_a_cache_under_autocast(package: ModuleType, calls: list[str]) -> None:
    """It is in bfloat16, what native code has computed in float32: attention would write past its end."""
    model, tokens = package.Model(dtype=torch.float32), torch.randint(160, (1, 3))
    expected = _step_by_step(model, tokens)
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = model.new_cache(1, 8)
        found = torch.cat([model(piece, cache=cache) for piece in tokens.split([2, 1], 1)], 1)
    assert cache.layers[0]["k"].dtype == torch.bfloat16
    assert "linear" in calls
    assert distance(found, expected) < 0.02


@needs_compiler
def test_logits_under_autocast(package: ModuleType, calls: list[str]) -> None:
    """They are in its dtype, whether native code computes them, of a few tokens, or PyTorch, of many."""
    model, tokens = package.Model(dtype=torch.float32), torch.randint(160, (1, 65))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model(tokens).dtype == torch.bfloat16
        assert "linear" not in calls
        assert model(tokens[:, 1:]).dtype == torch.bfloat16
        assert "linear" in calls


@torch.no_grad()
def _step_by_step(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    cache = model.new_cache(*tokens.shape)
    return torch.cat([model(token, cache=cache) for token in tokens.split(1, 1)], 1)


_RESHAPED = """
arch Reshaped(d = 16) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 9, d) as embed
    first = none
    for i in 0..2 as groups {
      for j in 0..2 as layers {
        h = rms_norm(x, 1e-5) as norm
        q, k, v = linear(h, d) as q, linear(h, d) as k, split_heads(linear(h, d) as v, 2)
        q, k = rotate(split_heads(q, 2), rope(10000)), rotate(split_heads(k, 2), rope(10000))
        if j == 0 { first = v }
        x = x + linear(merge_heads(attention(q, k, v + 0.5 * first, mask = causal)), d) as o
      }
    }
    return linear(rms_norm(x, 1e-5) as norm, 9) as head
  }
}
model reshaped = Reshaped()
"""


@needs_compiler
def test_a_result_in_another_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of heads that later layers read: what they are another shape of was not handed on."""
    package = build(_RESHAPED, "reshaped", tmp_path)
    native = package.native
    assert native.build()
    calls = _called(native, monkeypatch)
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    tokens = torch.randint(9, (2, 5))
    torch.testing.assert_close(_step_by_step(model, tokens), model(tokens), rtol=1e-4, atol=1e-6)
    assert "decode_layers" in calls
    native._functions.clear()


@needs_compiler
def test_layers_that_do_not_take_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens than one, and padding; and experts have no such function."""
    package = _package("gemma2", "gemma2_tiny")
    native = package.native
    assert native.build()
    calls = _called(native, monkeypatch)
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    tokens = torch.randint(40, (1, 2))
    with torch.no_grad():
        model(tokens, cache=model.new_cache(1, 4))
        model(tokens[:, :1], cache=model.new_cache(1, 4), padding=torch.ones(1, 1, dtype=torch.bool))
        assert "decode_layers" not in calls
        model(tokens[:, :1], cache=model.new_cache(1, 100))
        assert calls.count("decode_layers") == 1
    native._functions.clear()
    mixtral = _package("mixtral", "mixtral_tiny").model
    assert not hasattr(mixtral.Layer, "NATIVE_INPUTS")


@needs_compiler
def test_layers_whose_weights_lie_otherwise(package: ModuleType, calls: list[str]) -> None:
    """Not row by row, or not in a parameter: such layers are calls of their ops, with the same result."""
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    scramble(model, spread=0.1)
    tokens = torch.randint(40, (1, 3))
    expected = _step_by_step(model, tokens)
    assert calls.count("decode_layers") == 3
    calls.clear()
    first, second, *others = model.layers
    first.o_proj = torch.nn.Parameter(first.o_proj.t().contiguous().t(), requires_grad=False)
    parametrize.register_parametrization(second, "o_proj", torch.nn.Identity())
    assert distance(_step_by_step(model, tokens), expected) < 1e-5
    assert calls.count("decode_layers") == len(others) * 3


@needs_compiler
def test_what_stays_with_pytorch(package: ModuleType, calls: list[str]) -> None:
    """Gradients, many rows, other dtypes, weights that do not lie row by row, and what is wrong."""
    native = package.native
    x, weight = torch.randn(1, 8), torch.randn(5, 8)
    native.linear(x, weight.requires_grad_()).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        for dtype in (torch.float16, torch.float64):
            native.linear(x.to(dtype), weight.to(dtype))
        native.linear(torch.randn(65, 8), weight)
        native.linear(torch.randn(0, 8), weight)
        native.linear(x, torch.randn(8, 5).t())
        native.linear(x.to("meta"), weight.to("meta"))
        with pytest.raises(RuntimeError):
            native.linear(torch.randn(1, 7), weight)
        with pytest.raises(RuntimeError):
            native.linear(x, weight.bfloat16())
    assert not calls


@needs_compiler
def test_compilers_see_plain_pytorch(package: ModuleType, calls: list[str]) -> None:
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    tokens = torch.randint(160, (1, 3))
    with torch.no_grad():
        traced = torch.export.export(model, (tokens,)).module()(tokens)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(tokens)
        assert not calls
        assert distance(traced, model(tokens)) < 1e-5
        assert distance(compiled, model(tokens)) < 1e-5
    assert calls


def _check_trace(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.jit.trace gives what is right for other tokens too; returns the native calls meanwhile."""
    called = _called(package.native, monkeypatch)
    model = package.Model(dtype=torch.float32).requires_grad_(False)
    scramble(model)
    tokens, others = torch.randint(160, (2, 2, 3))
    traced, meanwhile = torch.jit.trace(model, (tokens,), check_trace=False), called.copy()
    assert distance(traced(others), model(others)) < 1e-5
    assert len(called) > len(meanwhile)
    return meanwhile


_tracing = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


@needs_compiler
@_tracing
def test_traces_see_plain_pytorch(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a trace sizes are tensors, whose addresses would be taken for numbers."""
    assert not _check_trace(package, monkeypatch)


@needs_compiler
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch loops over attention
def test_transforms_see_plain_pytorch(package: ModuleType, calls: list[str]) -> None:
    """Under torch.func.vmap tensors have no address."""
    model = package.Model()
    tokens = torch.randint(0, 60, (3, 1, 5))
    with torch.no_grad():
        truth = torch.stack([model(each) for each in tokens])
        assert calls
        calls.clear()
        found = torch.func.vmap(model)(tokens)
    assert not calls
    assert distance(found, truth) <= 1e-6


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no-such-compiler"), ("false", "")])
def test_without_a_compiler(compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and everything works as before."""
    package = _package("smollm2", "smollm2_tiny")
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(RuntimeWarning, match=f"without native code.*{reason}") as warned:
        assert not package.native.build()
    assert len(warned) == 1
    model = package.Model(dtype=torch.float32)
    assert model.generate(torch.zeros(1, 3, dtype=torch.int64), 2).shape == (1, 5)


ROWS_OF_EXPERTS = (3, 0, 1, 8, 4, 70, 0, 5, 64, 70)  # few, more, and too many


@pytest.fixture
def experts() -> Iterator[ModuleType]:
    """The module of a package whose tokens choose experts, with native code."""
    found = _package("mixtral", "mixtral_tiny")
    assert found.native.build()
    threads = torch.get_num_threads()
    yield found.experts
    torch.set_num_threads(threads)
    found.native._functions.clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@needs_compiler
def test_rows_of_experts(experts: ModuleType, threads: int, dtype: torch.dtype) -> None:
    """Experts of few rows by native code, the others by PyTorch; gathered or not, with offsets or without."""
    sizes = torch.tensor(ROWS_OF_EXPERTS)
    ends, tokens = sizes.cumsum(0), torch.arange(int(sizes.sum())).flip(0) // 2
    torch.set_num_threads(threads)
    for outputs, width in ((37, 100), (2, 7), (64, 33)):
        shapes = (len(tokens), width), (len(sizes), outputs, width), (len(sizes), outputs)
        x, weight, offset = (torch.randn(*shape).to(dtype) for shape in shapes)
        weight[sizes == 0] = torch.nan
        for gathered, added in itertools.product((None, tokens), (None, offset)):
            rows = x if gathered is None else x[gathered]
            wide = None if added is None else added.double()
            truth = ops.grouped_linear(rows.double(), weight.double(), ends, wide)
            unfused = ops.grouped_linear(rows, weight, ends, added)
            y = torch.full_like(unfused, torch.nan)
            few = _package("mixtral", "mixtral_tiny").native.grouped_linear(
                x, weight, ends, added, gathered, y
            )
            written = torch.repeat_interleave((sizes > 0) & (sizes <= few), sizes)
            assert torch.equal(y.isnan().logical_not().all(-1), written)
            found = experts._product_on_cpu(x, weight, ends, added, gathered)
            assert torch.equal(found[written], y[written])
            assert distance(found, truth) <= 1.05 * distance(unfused, truth) + LEVEL[dtype]


@needs_compiler
def test_what_native_code_does_not_take_of_experts(experts: ModuleType) -> None:
    native = _package("mixtral", "mixtral_tiny").native
    x, weight, ends = torch.randn(4, 6), torch.randn(2, 6, 5), torch.tensor([1, 4])
    y = torch.empty(4, 5)
    assert native.grouped_linear(x, weight.mT, ends, None, None, y) == 0
    assert (
        native.grouped_linear(x.double(), weight.mT.contiguous().double(), ends, None, None, y.double()) == 0
    )
    assert native.grouped_linear(x, weight.mT.contiguous(), ends, None, None, y) > 0
    truth = ops.grouped_linear(x, weight.mT, ends)
    torch.testing.assert_close(experts._product_on_cpu(x, weight.mT, ends, None), truth)
    torch.testing.assert_close(y, truth)


@needs_compiler
@_tracing
@pytest.mark.usefixtures("experts")
def test_traces_see_products_of_experts_as_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows an expert has is not traced, and within an op nothing is: sizes are numbers there."""
    assert {*_check_trace(_package("mixtral", "mixtral_tiny"), monkeypatch)} == {"grouped_linear"}


@needs_compiler
def test_a_loop_that_leaves_what_did_not_enter_it(tmp_path: Path) -> None:
    """Its first layer makes values that the others mix in: no native code may take them for operands."""
    spec = """
    arch A(d = 16) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 40, d) as embed
        first = none
        for i in 0..3 as layers {
          q, k, v = split(split_heads(linear(x, 3 * d) as qkv, 2), 3)
          if i == 0 {
            first = v
          }
          o = merge_heads(attention(q, k, v + 0.5 * first, mask = causal))
          x = rms_norm(x + linear(o, d) as o, 1e-6) as norm
        }
        return linear(x, 40) as head
      }
    }
    model a = A()
    """
    package = build(spec, "a", tmp_path)
    assert package.native.build()
    model = package.Model().eval()
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        whole, cache = model(tokens), model.new_cache(2, 6)
        steps = torch.cat([model(token, cache=cache) for token in tokens.split(1, 1)], 1)
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=1e-4)


@needs_compiler
def test_heads_that_hold_their_parts_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each head has its queries, keys and values side by side, as in GPT-NeoX; a step takes them apart."""
    spec = """
    arch A(d = 16) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 40, d) as embed
        for i in 0..2 as layers {
          q, k, v = split(split_heads(linear(rms_norm(x, 1e-6) as norm, 3 * d) as qkv, 2), 3)
          x = x + linear(merge_heads(attention(q, k, v, mask = causal)), d) as o
        }
        return linear(rms_norm(x, 1e-6) as norm, 40) as head
      }
    }
    model a = A()
    """
    package = build(spec, "a", tmp_path)
    native = package.native
    assert native.build()
    called: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest: (called.append(name), call(name, *rest)))
    model, tokens = package.Model(), torch.arange(12).view(2, 6)
    scramble(model)
    with torch.no_grad():
        whole, cache = model(tokens), model.new_cache(2, 6)
        steps = torch.cat([model(token, cache=cache) for token in tokens.split(1, 1)], 1)
    assert called.count("decode_layers") == 6
    assert distance(steps, whole) < 1e-5


@needs_compiler
def test_rows_of_one_number(tmp_path: Path) -> None:
    """Heads of width 1 are rows of a single value, over which there is no loop."""
    spec = """
    arch A(d = 16) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 40, d) as embed
        h, v = split_heads(linear(x, 4) as h, 4), split_heads(linear(x, 4) as v, 4)
        skip = unsqueeze(parameter([4], init = fill(2)) as skip)
        y = merge_heads(h + skip * v)
        z = merge_heads(v * rsqrt(mean((v + skip * h) ** 2) + 1.0))
        return linear(y, 40) as head + linear(z, 40) as other
      }
    }
    model a = A()
    """
    package = build(spec, "a", tmp_path)
    assert package.native.build()
    model, tokens = package.Model(), torch.arange(3)[None]
    model.save_pretrained(tmp_path / "weights")
    reference = package.Reference.from_pretrained(tmp_path / "weights", dtype=torch.float64)
    with torch.no_grad():
        assert distance(model(tokens), reference(tokens)) < 1e-6
