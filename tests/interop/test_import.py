"""`archc import`: every key is accounted for, and the spec means what the config says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner

from archc import compiler
from archc.cli import main
from archc.errors import ArchcError
from archc.importer import import_model
from archc.interop.families import FAMILIES
from tests.interop.published import PUBLISHED
from tests.support import ROOT, SPECS, few

CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "mixtral": transformers.MixtralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "qwen3_moe": transformers.Qwen3MoeConfig,
    "qwen3_next": transformers.Qwen3NextConfig,
    "mamba2": transformers.Mamba2Config,
    "recurrent_gemma": transformers.RecurrentGemmaConfig,
    "smollm3": transformers.SmolLM3Config,
    "olmo2": transformers.Olmo2Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
    "gpt2": transformers.GPT2Config,
    "bloom": transformers.BloomConfig,
    "gpt_oss": transformers.GptOssConfig,
    "llama4_text": transformers.Llama4TextConfig,
    "deepseek_v2": transformers.DeepseekV2Config,
    "deepseek_v3": transformers.DeepseekV3Config,
    "deepseek_v32": transformers.DeepseekV32Config,
    "kimi_k2": transformers.DeepseekV3Config,
    "marian": transformers.MarianConfig,
    "t5": transformers.T5Config,
    "switch_transformers": transformers.SwitchTransformersConfig,
}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def write(folder: Path, config: Any) -> Path:
    """A model directory with a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def parameters(text: str) -> dict[str, Any]:
    """All parameters of a spec's one model, by name."""
    spec = compiler.read_spec_text(text)
    (program,) = compiler.lower_models(spec, spec.models)
    return dict(program.parameters)


def imported(folder: Path, **config: Any) -> dict[str, Any]:
    """The parameters that a config is imported with."""
    return parameters(import_model(write(folder, config)).text)


def fault(folder: Path, **config: Any) -> str:
    """What is wrong with a config."""
    with pytest.raises(ArchcError) as error:
        import_model(write(folder, config))
    return str(error.value)


def newer(config: dict[str, Any]) -> dict[str, Any]:
    """A config in the dialect of transformers 5."""
    renamed = {"torch_dtype": "dtype"}
    given = {renamed.get(key, key): value for key, value in config.items()}
    theta, scaling = given.pop("rope_theta", None), given.pop("rope_scaling", None)
    local, period = given.pop("rope_local_base_freq", None), given.pop("sliding_window_pattern", None)
    if theta is not None:
        kind = {"rope_type": scaling["type"]} if scaling and "type" in scaling else {}
        given["rope_parameters"] = {"rope_type": "default", **(scaling or {}), **kind, "rope_theta": theta}
    if local is not None:
        both = {FULL: given["rope_parameters"], SLIDING: {"rope_type": "default", "rope_theta": local}}
        given["rope_parameters"] = both
    if period is not None:
        layers = range(1, given["num_hidden_layers"] + 1)
        given["layer_types"] = [SLIDING if layer % period else FULL for layer in layers]
    return given


@pytest.mark.parametrize("dialect", [dict, newer], ids=["older", "newer"])
@pytest.mark.parametrize(("spec", "model"), PUBLISHED)
def test_published_configs_are_the_standard_models(
    spec: str, model: str, dialect: Any, tmp_path: Path
) -> None:
    read = compiler.read_spec_file(SPECS / f"{spec}.arch")
    (program,) = compiler.lower_models(read, [model])
    assert imported(tmp_path / "x", **dialect(PUBLISHED[spec, model])) == dict(program.parameters)


@pytest.mark.parametrize("kind", FAMILIES)
def test_missing_keys_are_the_defaults_of_the_class(kind: str, tmp_path: Path) -> None:
    CLASSES[kind]().save_pretrained(tmp_path / "saved")
    assert imported(tmp_path / "bare", model_type=kind) == parameters(import_model(tmp_path / "saved").text)


def test_every_family_is_tested() -> None:
    assert set(CLASSES) == set(FAMILIES)


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {"num_attention_heads": 16, "num_key_value_heads": None}, {"kv_heads": 16, "head_dim": 256}),
    ("llama", {"hidden_size": 90, "num_attention_heads": 4}, {"head_dim": 22}),
    ("llama", {"head_dim": 64}, {"head_dim": 64, "d": 4096}),
    ("llama", {"attention_bias": True, "mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rms_norm_eps": 0.25}, {"eps": 0.25}),
    ("mistral", {}, {"window": 4096, "kv_heads": 8}),
    ("mistral", {"sliding_window": None, "head_dim": None}, {"window": None, "head_dim": 128}),
    ("mistral", {"sliding_window": 7}, {"window": 7}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 7}, {"window": None, "full_layers": 32}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 7}, {"window": 7, "full_layers": 28}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, {"window": 4096, "full_layers": 0}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": None}, {"window": None, "windowed": None}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 40}, {"window": None, "full_layers": 32}),
    (
        "qwen3",
        {"use_sliding_window": True, "layer_types": [SLIDING, FULL] * 16},
        {"window": 4096, "windowed": (True, False) * 16},
    ),
    (
        "qwen3",
        {"use_sliding_window": True, "layer_types": [FULL] * 30 + [SLIDING] * 2},
        {"window": 4096, "full_layers": 30, "windowed": None},
    ),
    ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 1}, {"experts": 1, "choices": 1}),
    ("qwen3_moe", {"num_experts": 60, "norm_topk_prob": True}, {"experts": 60, "normed": True}),
    ("qwen3_moe", {"num_local_experts": 60, "num_experts_per_tok": 60}, {"experts": 60, "choices": 60}),
    ("qwen3_moe", {"router_aux_loss_coef": 0.5}, {"balance": None}),
    ("qwen3_moe", {"router_aux_loss_coef": 0.5, "output_router_logits": True}, {"balance": 0.5}),
    ("mixtral", {"router_jitter_noise": 0.1}, {"noise": 0.1}),
    ("mixtral", {"router_aux_loss_coef": 0.0, "output_router_logits": True}, {"balance": None}),
    ("qwen3_moe", {"sliding_window": 7}, {"window": None}),
    ("qwen3_moe", {"sliding_window": 7, "use_sliding_window": True}, {"window": 7}),
    ("qwen3_moe", {"num_hidden_layers": 4, "decoder_sparse_step": 2}, {"sparse": (False, True) * 2}),
    ("qwen3_moe", {"num_hidden_layers": 3, "mlp_only_layers": [1]}, {"sparse": (True, False, True)}),
    ("qwen3_next", {"full_attention_interval": 6}, {"full_every": 6, "full": None}),
    (
        "qwen3_next",
        {"num_hidden_layers": 3, "layer_types": [FULL, LINEAR, FULL]},
        {"full": (True, False, True)},
    ),
    ("qwen3_next", {"num_hidden_layers": 4, "layer_types": [*[LINEAR] * 3, FULL]}, {"full": None}),
    ("mamba2", {"time_step_limit": [0.0, float("inf")]}, {"least_step": None, "largest_step": None}),
    ("mamba2", {"time_step_limit": [0.5, 2.0]}, {"least_step": 0.5, "largest_step": 2.0}),
    ("mamba2", {"expand": 1, "num_heads": 64}, {"heads": 64}),
    ("recurrent_gemma", {"hidden_size": 40}, {"head_dim": 4, "inner": 40, "embedding_scale": 6.3125}),
    ("recurrent_gemma", {"block_types": ["attention"] * 40}, {"attends": (True,) * 26}),
    ("recurrent_gemma", {"lru_width": 30, "intermediate_size": 18}, {"inner": 30, "d_ff": 9}),
    ("deepseek_v2", {"q_lora_rank": None, "first_k_dense_replace": 0}, {"q_rank": None, "dense": 0}),
    (
        "deepseek_v2",
        {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3},
        {"kept_groups": 3},
    ),
    ("deepseek_v2", {"topk_method": "greedy", "n_group": 1, "topk_group": 1}, {"groups": None}),
    ("deepseek_v3", {"n_group": 1, "topk_group": 1, "norm_topk_prob": False}, {"groups": 1, "normed": False}),
    (
        "deepseek_v32",
        {"num_hidden_layers": 3, "mlp_layer_types": ["dense", "sparse", "sparse"]},
        {"dense": 1},
    ),
    (
        "deepseek_v32",
        {"index_topk": 7, "index_n_heads": 3, "index_head_dim": 96},
        {"index_keys": 7, "index_heads": 3, "index_dim": 96},
    ),
    ("gpt_oss", {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING]}, {"windowed": (False, True)}),
    ("gpt_oss", {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}, {"windowed": None}),
    ("gemma2", {"query_pre_attn_scalar": 144, "head_dim": 128}, {"scale": 144**-0.5}),
    (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": 7},
        {"softcap": None, "logit_softcap": 7},
    ),
    ("gemma2", {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING]}, {"windowed": (False, True)}),
    ("gemma2", {"num_hidden_layers": 3, "layer_types": [SLIDING, FULL, SLIDING]}, {"windowed": None}),
    ("gemma3_text", {"sliding_window_pattern": 3}, {"full_every": 3, "windowed": None}),
    (
        "gemma3_text",
        {"num_hidden_layers": 2, "layer_types": [FULL] * 2},
        {"full_every": 6, "windowed": (False, False)},
    ),
    ("llama4_text", {"num_hidden_layers": 2, "no_rope_layers": [0, 1]}, {"rotated": (False, True)}),
    ("llama4_text", {"num_hidden_layers": 4, "moe_layers": [1, 3]}, {"sparse": (False, True) * 2}),
    ("llama4_text", {"attention_chunk_size": None, "use_qk_norm": False}, {"chunk": None, "qk_norm": False}),
    (
        "t5",
        {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3},
        {"gated": True, "decoder_layers": 3},
    ),
    (
        "t5",
        {"tie_word_embeddings": False, "num_layers": 4},
        {"tied": False, "scaled": False, "decoder_layers": 4},
    ),
    ("marian", {"decoder_start_token_id": 0, "scale_embedding": True}, {"start": 0, "scaled": True}),
    ("marian", {"decoder_layers": 3, "decoder_vocab_size": 58101}, {"layers": 12, "decoder_layers": 3}),
    ("smollm3", {"no_rope_layer_interval": 3}, {"nope_every": 3, "rotated": None}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 0] * 9}, {"nope_every": 4, "rotated": None}),
    ("smollm3", {"no_rope_layers": [0] * 36}, {"rotated": (False,) * 36}),
    (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 7},
        {"window": 7, "windowed": (False, False, False, True) * 9},
    ),
    (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 7, "layer_types": [SLIDING] + [FULL] * 35},
        {"window": 7, "windowed": (True,) + (False,) * 35},
    ),
    ("bloom", {"hidden_size": 96}, {"d": 96}),
    (
        "bloom",
        {"n_embed": 96, "num_hidden_layers": 3, "num_attention_heads": 6},
        {"d": 96, "layers": 3, "heads": 6},
    ),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, {"residual_normed": True}),
    ("gpt2", {"n_inner": 5}, {"d_ff": 5}),
    ("gpt2", {"n_embd": 96, "n_inner": None}, {"d_ff": 384}),
    ("gpt2", {"scale_attn_weights": False}, {"scaled": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {"scaled_by_layer": True}),
    ("gpt2", {"n_positions": 77}, {"context": 77}),
]


@pytest.mark.parametrize(("kind", "change", "meant"), CHANGES)
def test_keys_and_what_they_mean(
    kind: str, change: dict[str, Any], meant: dict[str, Any], tmp_path: Path
) -> None:
    values = imported(tmp_path / "x", model_type=kind, **change)
    assert {name: values[name] for name in meant} == meant


@pytest.mark.parametrize(
    "kind",
    few(
        [
            kind
            for kind, family in FAMILIES.items()
            if "rope" in family.parameters
            and "local_rope" not in family.parameters
            and kind not in ("gpt_oss", "recurrent_gemma")
        ],
        6,
    ),
)
@pytest.mark.parametrize(
    ("keys", "meant"),
    [
        ({"rope_theta": 7}, "rope(theta = 7)"),
        ({"rope_parameters": {"rope_theta": 7.5, "rope_type": "default"}}, "rope(theta = 7.5)"),
        ({"rope_theta": 5, "rope_parameters": {"rope_theta": 7}}, "rope(theta = 7)"),
        ({"rope_theta": 7, "rope_scaling": None, "partial_rotary_factor": 1.0}, "rope(theta = 7)"),
        (
            {"rope_theta": 7, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope(theta = 7, scaling = linear_scaling(factor = 2))",
        ),
        (
            {
                "rope_theta": 7,
                "max_position_embeddings": 99,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 2,
                    "low_freq_factor": 1,
                    "high_freq_factor": 4,
                },
            },
            "rope(theta = 7, scaling = llama3(factor = 2, low = 1, high = 4, original = 99))",
        ),
        (
            {"max_position_embeddings": 99, "rope_scaling": {"type": "dynamic", "factor": 2}},
            "scaling = dynamic(factor = 2, original = 99))",
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4,
                    "original_max_position_embeddings": 99,
                    "finetuned": True,
                }
            },
            "scaling = yarn(factor = 4, original = 99))",
        ),
        (
            {
                "max_position_embeddings": 600,
                "original_max_position_embeddings": 150,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 7,
                    "factor": None,
                    "original_max_position_embeddings": 99,
                    "beta_fast": 16,
                    "beta_slow": None,
                    "truncate": False,
                    "mscale": 0.5,
                    "mscale_all_dim": 0,
                    "attention_factor": 1.5,
                },
            },
            "rope(theta = 7, scaling = yarn(factor = 4, original = 150, fast = 16, truncate = false, "
            "attention_factor = 1.5, mscale = 0.5))",
        ),
        (
            {
                "head_dim": 4,
                "max_position_embeddings": 600,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 7,
                    "short_factor": [1, 2.5],
                    "long_factor": [3, 4],
                    "original_max_position_embeddings": 150,
                    "attention_factor": 2,
                },
            },
            "rope(theta = 7, scaling = longrope(short = [1, 2.5], long = [3, 4], original = 150, factor = 4, "
            "attention_factor = 2))",
        ),
    ],
)
def test_rotary_positions(kind: str, keys: dict[str, Any], meant: str, tmp_path: Path) -> None:
    latent = {"qk_rope_head_dim": 4} if "head_dim" in keys and kind.startswith(("deepseek", "kimi")) else {}
    whole = {"partial_rotary_factor": 1.0} if kind == "qwen3_next" else {}  # not its class's default
    rope = imported(tmp_path / "x", **{"model_type": kind, **keys, **latent, **whole})["rope"]
    assert str(replace(rope, pairing="half")).endswith(meant)  # how values are paired is the class's own
    assert (rope.pairing == "interleaved") is kind.startswith(("deepseek", "kimi", "llama4"))


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, 64),
        ({"partial_rotary_factor": 0.5}, 128),
        ({"rope_parameters": {"rope_theta": 7, "partial_rotary_factor": 0.125}}, 32),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"rope_theta": 7}}, 128),
        ({"partial_rotary_factor": 1.0}, None),
    ],
)
def test_a_share_of_each_head_is_rotated(keys: dict[str, Any], width: int | None, tmp_path: Path) -> None:
    assert imported(tmp_path / "x", model_type="qwen3_next", **keys)["rope"].width == width


def test_scaling_is_the_default_of_some(tmp_path: Path) -> None:
    """gpt-oss scales its frequencies where a config does not speak of them."""
    assert "factor = 32" in str(imported(tmp_path / "bare", model_type="gpt_oss")["rope"])
    given = {"rope_parameters": {"rope_type": "default", "rope_theta": 7}}
    assert str(imported(tmp_path / "x", model_type="gpt_oss", **given)["rope"]) == "rope(theta = 7)"


@pytest.mark.parametrize(
    ("keys", "local", "full"),
    [
        ({"rope_theta": 7, "rope_local_base_freq": 5}, "rope(theta = 5)", "rope(theta = 7)"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            "rope(theta = 10000)",
            "rope(theta = 1e+06, scaling = linear_scaling(factor = 8))",
        ),
        (
            {
                "rope_theta": 7,
                "rope_parameters": {
                    SLIDING: {"rope_type": "linear", "factor": 2, "rope_theta": 5},
                    FULL: {"rope_type": "dynamic", "factor": 4},
                },
                "max_position_embeddings": 99,
            },
            "rope(theta = 5, scaling = linear_scaling(factor = 2))",
            "rope(theta = 7, scaling = dynamic(factor = 4, original = 99))",
        ),
        ({"rope_parameters": {FULL: {"rope_theta": 7}}}, "rope(theta = 10000)", "rope(theta = 7)"),
    ],
)
def test_rotary_positions_by_layers(keys: dict[str, Any], local: str, full: str, tmp_path: Path) -> None:
    values = imported(tmp_path / "x", model_type="gemma3_text", **keys)
    assert (str(values["local_rope"]), str(values["rope"])) == (local, full)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
    ],
)
def test_activations(theirs: str, ours: str, tmp_path: Path) -> None:
    assert imported(tmp_path / "a", model_type="llama", hidden_act=theirs)["act"].name == ours
    assert imported(tmp_path / "b", model_type="gpt2", activation_function=theirs)["act"].name == ours


@pytest.mark.parametrize("kind", few(FAMILIES, 6))
@pytest.mark.parametrize("value", [3, None, {"deep": [1]}, "x" * 200])
def test_an_unknown_key_is_named_with_its_value(kind: str, value: Any, tmp_path: Path) -> None:
    told = fault(tmp_path / "x", model_type=kind, mystery=value)
    assert f'"mystery" is {json.dumps(value)[:57]}' in told
    assert f"type {kind} has no such key; supported are " in told
    assert "vocab_size" in told


def test_an_unknown_key_near_a_known_one(tmp_path: Path) -> None:
    assert "did you mean `hidden_size`?" in fault(tmp_path / "x", model_type="llama", hiden_size=3)


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": "big"}, '"hidden_size" is "big": must be a whole number from 1'),
    ("llama", {"hidden_size": 0}, '"hidden_size" is 0: must be a whole number from 1'),
    ("llama", {"hidden_size": 64.0}, '"hidden_size" is 64.0: must be a whole number from 1'),
    ("llama", {"hidden_size": True}, '"hidden_size" is true: must be a whole number from 1'),
    ("llama", {"hidden_size": None}, '"hidden_size" is null: must be a whole number from 1'),
    ("llama", {"hidden_size": 1 << 60}, "must be a whole number from 1"),
    ("llama", {"num_hidden_layers": 1 << 30}, "must be a whole number from 1 to 10000"),
    ("llama", {"num_key_value_heads": 5}, "32 query heads are not divisible by 5"),
    ("llama", {"head_dim": 7}, "cannot rotate 7 values"),
    ("llama", {"rms_norm_eps": "1e-5"}, '"rms_norm_eps" is "1e-5": must be a number above 0'),
    ("llama", {"rms_norm_eps": {"__float__": "Infinity"}}, '"rms_norm_eps" is Infinity: must be a number'),
    ("llama", {"rms_norm_eps": {"__float__": "NaN"}}, '"rms_norm_eps" is NaN: must be a number above 0'),
    ("llama", {"tie_word_embeddings": 1}, '"tie_word_embeddings" is 1: must be true or false'),
    ("llama", {"hidden_act": "mish"}, '"hidden_act" is "mish": supported are silu, swish, gelu, '),
    ("llama", {"hidden_act": ["silu"]}, '"hidden_act" is ["silu"]: supported are silu'),
    ("llama", {"pretraining_tp": 2}, '"pretraining_tp" is 2: supported is only 1, since'),
    (
        "llama",
        {"quantization_config": {"bits": 4}},
        '"quantization_config" is {"bits": 4}: supported is only null',
    ),
    (
        "llama",
        {"architectures": ["LlamaModel"]},
        '"architectures" is ["LlamaModel"]: supported is LlamaForCausalLM',
    ),
    ("llama", {"architectures": "LlamaForCausalLM"}, '"architectures" is "LlamaForCausalLM": supported is'),
    ("marian", {"is_encoder_decoder": False}, '"is_encoder_decoder" is false: supported is only true'),
    ("marian", {"decoder_vocab_size": 9}, '"decoder_vocab_size" is 9: must be vocab_size, which is 58101'),
    ("marian", {"num_hidden_layers": 9}, '"num_hidden_layers" is 9: must be encoder_layers, which is 12'),
    ("marian", {"normalize_before": True}, '"normalize_before" is true: supported is only false'),
    ("llama", {"is_encoder_decoder": True}, '"is_encoder_decoder" is true: supported is only false'),
    ("llama", {"pruned_heads": {"0": [1]}}, '"pruned_heads" is {"0": [1]}: supported is only {}'),
    ("llama", {"rope_theta": -1}, '"rope_theta" is -1: must be a number above 0'),
    ("llama", {"rope_scaling": 4}, '"rope_scaling" is 4: must be an object'),
    (
        "llama",
        {"rope_scaling": {"type": "axial", "factor": 4}},
        '"rope_scaling.type" is "axial": supported are default',
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic"}},
        '"rope_parameters.factor" is missing: must be a number above 0',
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "proportional"}},
        "supported are default, linear, dynamic, llama3, yarn, longrope",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [1.0]}},
        '"rope_parameters.long_factor" is [1.0]: must be a list with a number above 0 for each of the 64',
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4, "beta_slow": 33}},
        '"rope_parameters.beta_fast" is missing: must not be below beta_slow, which is 33',
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4, "attn_factor": 1.0}},
        '"rope_parameters.attn_factor" is 1.0: type llama has no such key',
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear"}},
        '"rope_scaling.factor" is missing: must be a number above 0',
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2, "beta": 3}},
        '"rope_scaling.beta" is 3: type llama',
    ),
    ("llama", {"rope_scaling": {"factor": 2}}, '"rope_scaling.factor" is 2: type llama has no such key'),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 5, "high_freq_factor": 4}},
        '"rope_scaling.high_freq_factor" is 4: must not be below low_freq_factor, which is 5',
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 5}},
        "rope_parameters is there too",
    ),
    ("llama", {"partial_rotary_factor": 0.5}, '"partial_rotary_factor" is 0.5: supported is only 1.0'),
    (
        "llama",
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        '"rope_parameters.partial_rotary_factor" is 0.5',
    ),
    ("llama", {"sliding_window": 4}, '"sliding_window" is 4: type llama has no such key'),
    ("mistral", {"sliding_window": 0}, '"sliding_window" is 0: must be a whole number from 1'),
    ("mistral", {"layer_types": [FULL]}, '"layer_types" is ["full_attention"]: type mistral has no such key'),
    ("qwen2", {"layer_types": [FULL]}, "must be a list with"),
    (
        "qwen2",
        {"layer_types": ["chunked_attention"] * 32},
        '"full_attention" or "sliding_attention" for each of the 32',
    ),
    (
        "qwen2",
        {"layer_types": [SLIDING] * 32},
        "it has sliding layers, but there is no sliding_window in use",
    ),
    ("qwen2", {"max_window_layers": -1}, '"max_window_layers" is -1: must be a whole number from 0'),
    ("qwen3", {"head_dim": None}, '"head_dim" is null: must be a whole number from 1'),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "supported are greedy, group_limited_greedy"),
    ("deepseek_v3", {"topk_group": 9}, '"topk_group" is 9: must be a whole number from 1 to 8'),
    ("deepseek_v3", {"rope_interleave": False}, "since the arch's pairs are neighbours"),
    (
        "deepseek_v32",
        {"num_hidden_layers": 2, "mlp_layer_types": ["sparse", "dense"]},
        "supported is only that the dense layers come first",
    ),
    ("llama4_text", {"layer_types": [FULL] * 48}, "supported is chunked attention where, and only where"),
    ("llama4_text", {"moe_layers": 3}, "must be a list of layers' numbers"),
    ("mixtral", {"num_experts_per_tok": 9}, '"num_experts_per_tok" is 9: must be a whole number from 1 to 8'),
    ("qwen3_moe", {"mlp_only_layers": "all"}, "must be a list of layers' numbers"),
    ("qwen3_next", {"partial_rotary_factor": 0.13}, "must leave an even part of a head's 256 values"),
    ("qwen3_next", {"rope_parameters": {"partial_rotary_factor": 3}}, "must leave an even part of a head's"),
    ("qwen3_next", {"layer_types": ["mamba"] * 48}, "must be a list with"),
    ("recurrent_gemma", {"head_dim": 128}, "must be hidden_size / num_attention_heads, 2560 / 10"),
    ("recurrent_gemma", {"lru_width": 44}, "must split into 10 blocks"),
    (
        "recurrent_gemma",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        "supported is only the default rope_type",
    ),
    ("recurrent_gemma", {"block_types": ["mlp"]}, 'each "recurrent" or "attention"'),
    ("mamba2", {"num_heads": 100}, "must be 8192 / 64: expand * hidden_size / head_dim"),
    (
        "mamba2",
        {"time_step_limit": [2.0, 1.0]},
        "must be a list of two numbers from 0, the smaller one first",
    ),
    (
        "smollm3",
        {"no_rope_layers": [1, 2] * 18},
        "1 (rotary positions) or 0 (none) for each of the 36 layers",
    ),
    ("smollm3", {"no_rope_layers": [1]}, '"no_rope_layers" is [1]: must be a list'),
    ("smollm3", {"no_rope_layers": 1}, '"no_rope_layers" is 1: must be a list'),
    (
        "smollm3",
        {"no_rope_layer_interval": 0},
        '"no_rope_layer_interval" is 0: must be a whole number from 1',
    ),
    ("gemma2", {"use_bidirectional_attention": True}, "supported is only false, since the arch is causal"),
    ("gemma2", {"sliding_window": None}, '"sliding_window" is null: must be a whole number from 1'),
    ("gemma2", {"final_logit_softcapping": 0}, '"final_logit_softcapping" is 0: must be a number above 0'),
    ("gemma2", {"query_pre_attn_scalar": 0}, '"query_pre_attn_scalar" is 0: must be a whole number from 1'),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "since the arch caps neither scores nor logits"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "since the arch caps neither scores nor logits"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "must be a whole number from 1"),
    (
        "gemma3_text",
        {"rope_parameters": {"rope_theta": 7}},
        '"rope_parameters.rope_theta" is 7: type gemma3_text has no such key; supported are full',
    ),
    (
        "gemma3_text",
        {"rope_parameters": {SLIDING: {"rope_type": "linear"}}},
        '"rope_parameters.sliding_attention.factor" is missing: must be a number above 0',
    ),
    ("gpt2", {"reorder_and_upcast_attn": True}, '"reorder_and_upcast_attn" is true: supported is only false'),
    ("bloom", {"slow_but_exact": True}, '"slow_but_exact" is true: supported is only false'),
    ("bloom", {"hidden_size": 64, "n_embed": 96}, '"hidden_size" is 64: must be what "n_embed" says, 96'),
    ("bloom", {"n_inner": 128}, '"n_inner" is 128: supported is only null'),
    ("gpt2", {"n_head": 7}, "float[B, T, 768] does not split into 7 heads"),
    ("gpt2", {"n_inner": "4x"}, '"n_inner" is "4x": must be a whole number from 1'),
]


@pytest.mark.parametrize(("kind", "keys", "told"), FAULTS)
def test_values_that_cannot_be(kind: str, keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    text = fault(tmp_path / "x", model_type=kind, **keys)
    assert told in text
    assert len(text.split("\n")) == 1


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    told = fault(tmp_path / "x", model_type="llama", hidden_size=-1, mystery=1, hidden_act="mish")
    assert len(told.split("\n")) == 3


def test_a_type_that_is_not_known(tmp_path: Path) -> None:
    assert 'no import for models of type "bert"; archc imports llama' in fault(
        tmp_path / "x", model_type="bert"
    )
    assert "did you mean `mistral`?" in fault(tmp_path / "x", model_type="mistrall")
    assert 'no import for models of type ["llama"]' in fault(tmp_path / "x", model_type=["llama"])
    assert 'has no "model_type"' in fault(tmp_path / "x", hidden_size=4)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "config.json:1:1: this is not JSON"),
        (b'{"model_type": "llama",}', "config.json:1:24: this is not JSON"),
        (b"[1, 2]", "holds [1, 2], not an object"),
        (b"3", "holds 3, not an object"),
        (b"\xff\xfe{}", "is not a text file in UTF-8"),
        (b"[" * 200_000, "is not JSON that can be read"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
        (b" " * (1 << 24) + b"{}", "is too large for a config.json"),
    ],
    ids=["empty", "broken", "list", "number", "binary", "deep", "long number", "large"],
)
def test_files_that_are_no_config(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ArchcError) as error:
        import_model(tmp_path)
    assert told in str(error.value)


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArchcError, match=r"has no config\.json"):
        import_model(tmp_path)
    with pytest.raises(ArchcError, match="no such file or directory"):
        import_model(tmp_path / "nowhere")


def test_the_text_says_no_more_than_it_must(tmp_path: Path) -> None:
    config = PUBLISHED["llama3", "llama3_2_1b"]
    text = import_model(write(tmp_path / "Llama-3.2-1B", config)).text
    assert text == f"""\
# Imported from {tmp_path}/Llama-3.2-1B/config.json, a Hugging Face model of type llama.

import llama

model llama_3_2_1b = Llama(
  d = 2048, layers = 16, heads = 32, kv_heads = 8, d_ff = 8192, vocab = 128256, rope = rope(theta = 500000,
  scaling = llama3(factor = 32, low = 1, high = 4, original = 8192)), tied = true,
)
"""


def test_lists_are_written_by_their_period(tmp_path: Path) -> None:
    keys = {"no_rope_layers": [0, 1, 1] * 12, "model_type": "smollm3"}
    assert "rotated = [false, true, true] * 12" in import_model(write(tmp_path, keys)).text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("SmolLM2-135M", "smollm2_135m"),
        ("7B--chat.v2", "model_7b_chat_v2"),
        ("import", "import_model"),
        ("torch", "torch_model"),
        ("модель", "llama"),
        ("models--org--Tiny-1/snapshots/0123456789abcdef", "tiny_1"),
        ("x" * 200, "x" * 60),
    ],
)
def test_names(folder: str, name: str, tmp_path: Path) -> None:
    text = import_model(write(tmp_path / folder, {"model_type": "llama"})).text
    assert compiler.read_spec_text(text).models == [name]


def test_the_name_in_the_config_helps_where_the_folder_has_none(tmp_path: Path) -> None:
    config = {"model_type": "llama", "_name_or_path": "org/Tiny-1/"}
    assert "model tiny_1 = " in import_model(write(tmp_path / "мама", config)).text


def test_a_path_cannot_leave_its_comment(tmp_path: Path) -> None:
    text = import_model(write(tmp_path / "a\nmodel b = Llama()\u2028", {"model_type": "llama"})).text
    assert len(compiler.read_spec_text(text).models) == 1
    assert text.split("\n")[0].endswith("a Hugging Face model of type llama.")


def test_command_prints_a_spec_that_passes_check(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    result = CliRunner().invoke(main, ["import", str(model)])
    assert result.exit_code == 0
    (tmp_path / "tiny.arch").write_text(result.output)
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "tiny.arch")])
    assert "1 model, no mistakes" in checked.output


def test_command_overwrites_nothing_else(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    target = tmp_path / "tiny.arch"
    arguments = ["import", str(model), "-o", str(target)]
    assert CliRunner().invoke(main, arguments).output == f"{target}: written\n"
    text = target.read_text()
    assert CliRunner().invoke(main, arguments).exit_code == 0
    target.write_text(text + "# by hand\n")
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "is there already and differs" in refused.output
    assert target.read_text().endswith("# by hand\n")
    assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
    assert target.read_text() == text


@pytest.mark.parametrize(
    ("target", "told"), [("qwen2.arch", "would hide `qwen2`"), ("no/where.arch", "cannot write")]
)
def test_command_refuses_a_file_that_cannot_be(target: str, told: str, tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    result = CliRunner().invoke(main, ["import", str(model), "-o", str(tmp_path / target)])
    assert result.exit_code == 1
    assert told in result.output
    assert not (tmp_path / target).exists()


def test_command_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "llama"})
    code = f"""
import sys
from archc.cli import main
try:
    main(["import", {str(model)!r}])
except SystemExit as end:
    assert not end.code, end.code
loaded = {{"torch", "triton", "transformers"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
