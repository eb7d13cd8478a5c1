"""The class of transformers that computes the same as a model: found, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from archc import compiler
from archc.benchmarking.hugging_face import HuggingFace, load
from archc.benchmarking.models import EAGER, Models
from archc.interop.families import FAMILIES
from archc.ir.program import Program
from archc.peer import find_peer, read_peer_config, with_layers
from archc.verification.packages import stored_tensors
from tests.interop.parity import LOGITS
from tests.support import SPECS, build, compile_model, distance, scramble

IMPORTED = {family.arch for family in FAMILIES.values()}
WINDOWED = {"window": "5", "windowed": "[true, false, true]", "layers": "3"}


def scaled(scaling: str) -> dict[str, str]:
    return {"rope": f"rope(theta = 10000, scaling = {scaling})"}


def programs(path: Path, settings: dict[str, str] | None = None) -> Iterator[Program]:
    spec = compiler.read_spec_file(path)
    return iter(compiler.lower_models(spec, spec.models, settings))


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.arch")), ids=lambda path: path.stem)
def test_every_model_that_could_be_imported_has_a_peer(path: Path) -> None:
    for program in programs(path):
        peer = find_peer(program)
        if program.arch == "Transformer":  # the paper's has no biases where Marian's class always has
            assert "no config of type marian" in peer.reason
            continue
        if program.root:  # the class that has its tensors there sees images, too
            assert "no config of type" in peer.reason
            continue
        assert (peer.config is not None) == (program.arch in IMPORTED), (program.name, peer.reason)
        assert peer.config or program.arch in peer.reason


@pytest.mark.parametrize(
    ("spec", "model", "settings"),
    [
        ("llama3", "llama3_tiny", {}),
        ("llama3", "llama3_tiny", scaled("linear_scaling(factor = 4)")),
        ("llama3", "llama3_tiny", scaled("dynamic(factor = 4, original = 8)")),
        (
            "llama3",
            "llama3_tiny",
            scaled("yarn(factor = 4, original = 32, mscale = 0.7, mscale_all_dim = 1)"),
        ),
        (
            "llama3",
            "llama3_tiny",
            scaled("longrope(short = [1] * 6, long = [2, 3] * 3, original = 8, factor = 4)"),
        ),
        ("llama3", "llama3_tiny", {"act": "gelu", "attention_bias": "true", "mlp_bias": "true"}),
        ("mistral", "mistral_tiny", {}),
        ("qwen2", "qwen2_tiny", WINDOWED),
        ("qwen3", "qwen3_tiny", {"window": "5", "full_layers": "1"}),
        ("smollm3", "smollm3_tiny", {"window": "5"}),
        ("smollm3", "smollm3_tiny", {**WINDOWED, "rotated": "[true, false, true]"}),
        ("olmo2", "olmo2_tiny", {}),
        ("gemma2", "gemma2_tiny", {"softcap": "2", "scale": "36 ** -0.5"}),
        ("gemma3", "gemma3_tiny", {"windowed": "[true, false, true]", "layers": "3"}),
        ("gemma3", "gemma3_tiny", scaled("dynamic(factor = 4, original = 8)")),
        ("mixtral", "mixtral_tiny", {}),
        ("minimax_m2", "minimax_m2_tiny", {}),
        ("qwen2_moe", "qwen2_moe_tiny", {}),
        ("qwen3_moe", "qwen3_moe_tiny", {"window": "5"}),
        ("gpt_oss", "gpt_oss_tiny", {}),
        ("deepseek_v2", "deepseek_v2_tiny", {}),
        ("deepseek_v3", "deepseek_v3_tiny", {}),
        ("glm4", "glm4_tiny", {}),
        ("glm4_moe", "glm4_moe_tiny", {}),
        ("exaone4", "exaone4_tiny", {}),
        ("exaone4", "exaone4_tiny", {"window": "none", "windowed": "none"}),
        ("lfm2", "lfm2_tiny", {}),
        (
            "llama4",
            "llama4_tiny",
            {"rotated": "[true, false, true, true]", "sparse": "[true, false, false, true]"},
        ),
        ("gpt2", "gpt2_tiny", {"d_ff": "72", "scaled_by_layer": "true"}),
        ("bloom", "bloom_tiny", {"residual_normed": "true"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_peer_computes_the_same_on_the_same_memory(
    spec: str, model: str, settings: dict[str, str], tmp_path: Path
) -> None:
    path = SPECS / f"{spec}.arch"
    (program,) = compiler.lower_models(compiler.read_spec_file(path), [model], settings)
    peer = find_peer(program)
    assert peer.config is not None, peer.reason
    ours = build(path, model, tmp_path, settings).Model()
    scramble(ours)
    theirs = load(peer.config, dict(stored_tensors(ours)))
    tokens = torch.randint(int(program.parameters["vocab"]), (2, 12), generator=torch.manual_seed(0))
    with torch.no_grad():
        assert distance(theirs(tokens).logits, ours(tokens)) < LOGITS
    if "experts" in program.parameters:
        return  # transformers keeps all experts' weights in one tensor
    memory = {tensor.untyped_storage().data_ptr() for _, tensor in stored_tensors(ours)}
    assert all(parameter.untyped_storage().data_ptr() in memory for parameter in theirs.parameters())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import llama\nmodel a = Llama(d = 64, layers = 2, heads = 4, d_ff = 96, vocab = 160, window = 8,"
         " mlp_bias = true)", "no config of type llama or internlm3"),
        ("arch Llama(vocab = 9) { forward(tokens: [B, T]) { x = embedding(tokens, vocab, 8) as e\n"
         "return linear(x, vocab) as l } }\nmodel a = Llama()", "no config of type llama or internlm3"),
    ],
    ids=["a setting that no class has", "another arch of the same name"],
)  # fmt: skip
def test_what_no_config_says_has_no_peer(text: str, reason: str) -> None:
    spec = compiler.read_spec_text(text)
    (program,) = compiler.lower_models(spec, ["a"])
    peer = find_peer(program)
    assert peer.config is None
    assert reason in peer.reason


@pytest.mark.parametrize("layers", [3, 1])
def test_a_config_that_is_named_is_the_peer_of_any_arch(layers: int, tmp_path: Path) -> None:
    sizes = f"d = 64, layers = {layers}, heads = 4, kv_heads = 2, d_ff = 96, vocab = 160"
    spec = compiler.read_spec_text(f"import llama\nmodel a = Llama({sizes})")
    (program,) = compiler.lower_models(spec, ["a"], {"layers": "3"})
    config = find_peer(program).config
    assert config is not None
    renamed = (SPECS / "llama.arch").read_text().replace("arch Llama(", "arch Other(")
    compilation = compile_model(f"{renamed}\nmodel a = Other({sizes})", "a")
    assert find_peer(compilation.program).config is None
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**config, "layer_types": ["full_attention"] * 3}))
    given = with_layers(read_peer_config(file), layers)
    models = Models(compilation, tmp_path, torch.device("cpu"), torch.float32, config=given)
    models.model = models.package.Model(dtype=torch.float32)  # without native code, which takes long to make
    peer = models.get(EAGER)  # which compares its logits
    assert isinstance(peer, HuggingFace)
    assert peer.model.config.num_hidden_layers == layers
