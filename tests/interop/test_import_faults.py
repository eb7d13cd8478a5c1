"""What `archc import` refuses: each key, value or file is named with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archc.errors import ArchcError
from archc.importer import import_model
from archc.interop.families import FAMILIES
from tests.interop.configs import FULL, REQUIRED, SLIDING, fault
from tests.support import few


@pytest.mark.parametrize("kind", few(FAMILIES, 6))
@pytest.mark.parametrize("value", [3, None, {"deep": [1]}, "x" * 200])
def test_an_unknown_key_is_named_with_its_value(kind: str, value: Any, tmp_path: Path) -> None:
    told = fault(tmp_path / "x", model_type=kind, mystery=value)
    assert f'"mystery" is {json.dumps(value)[:57]}' in told
    assert f"type {kind} has no such key; supported are " in told
    assert "vocab_size" in told


def test_an_unknown_key_near_a_known_one(tmp_path: Path) -> None:
    assert "did you mean `hidden_size`?" in fault(tmp_path / "x", model_type="llama", hiden_size=3)


_DOTS = REQUIRED["dots1"]

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
        '"quantization_config" is {"bits": 4}: supported is only null, since no others are read: save the',
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
    (
        "ministral",
        {"sliding_window": None, "layer_types": [SLIDING] * 32},
        "there is no sliding_window in use",
    ),
    ("seed_oss", {"attention_bias": False}, '"attention_bias" is false: supported is only true'),
    ("seed_oss", {"mlp_bias": True}, '"mlp_bias" is true: supported is only false'),
    ("llama", {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "type llama has no such key"),
    (
        "qwen2_vl_text",
        {"rope_scaling": {"type": "mrope"}},
        '"rope_scaling.type" is "mrope": supported are default',
    ),
    ("qwen3_vl_moe_text", {"norm_topk_prob": False}, '"norm_topk_prob" is false: supported is only true'),
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
    ("glm4_moe", {}, '"partial_rotary_factor" is missing: must leave an even part of a head\'s 42 values'),
    ("solar_open", {"first_k_dense_replace": 1}, "all of whose layers have experts"),
    ("dots1", {**_DOTS, "n_routed_experts": None}, '"n_routed_experts" is null: must be a whole number from'),
    ("dots1", {**_DOTS, "layer_types": [SLIDING] * 62}, 'must be a list with "full_attention" for each'),
    ("dots1", {**_DOTS, "max_window_layers": 61}, "supported are only layers without a window"),
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
    ("minimax_m2", {"attn_type_list": [1, 0] * 31}, "must be a list with 1, attention, for each"),
    ("minimax_m2", {"rotary_dim": 7}, '"rotary_dim" is 7: must leave an even part of a head\'s 128 values'),
    ("minimax_m2", {"scoring_func": "softmax"}, 'supported is only "sigmoid"'),
    ("qwen3_moe", {"mlp_only_layers": "all"}, "must be a list of layers' numbers"),
    ("qwen3_next", {"partial_rotary_factor": 0.13}, "must leave an even part of a head's 256 values"),
    ("qwen3_next", {"rope_parameters": {"partial_rotary_factor": 3}}, "must leave an even part of a head's"),
    ("qwen3_next", {"layer_types": ["mamba"] * 48}, "must be a list with"),
    (
        "qwen3_5_text",
        {"attn_output_gate": False},
        "supported is only true, since the arch's attention is gated",
    ),
    (
        "qwen3_5_moe_text",
        {"mamba_ssm_dtype": "bfloat16"},
        'supported is only "float32", since states are kept',
    ),
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
    (
        "phi3",
        {"rope_scaling": {"type": "yarn", "factor": 4}},
        'supported are the types "default" and "longrope"',
    ),
    (
        "ministral3",
        {"rope_parameters": {"rope_type": "default"}},
        '"rope_parameters.llama_4_scaling_beta" is missing: must be a number above 0',
    ),
    ("cohere2", {"use_qk_norm": True}, '"use_qk_norm" is true: supported is only false, as in the class'),
    ("exaone4", {"sliding_window_pattern": "LLLG"}, "must be a whole number from 1"),
    ("lfm2", {"full_attn_idxs": "all"}, '"full_attn_idxs" is "all": must be a list of layers\' numbers'),
    ("lfm2", {"layer_types": ["mamba"] * 32}, 'must be a list with "conv" or "full_attention" for each'),
    ("starcoder2", {"mlp_type": "gated"}, '"mlp_type" is "gated": supported is only "default"'),
    ("phi3", {"full_attn_mod": 2}, '"full_attn_mod" is 2: supported is only 1, since layers are all alike'),
    (
        "gpt_neox",
        {"rotary_pct": 0.01},
        '"rotary_pct" is 0.01: must leave an even part of a head\'s 96 values',
    ),
    ("olmo3", {"rope_local_base_freq": 9}, '"rope_local_base_freq" is 9: type olmo3 has no such key'),
    ("gpt2", {"reorder_and_upcast_attn": True}, '"reorder_and_upcast_attn" is true: supported is only false'),
    ("bloom", {"slow_but_exact": True}, '"slow_but_exact" is true: supported is only false'),
    ("bloom", {"hidden_size": 64, "n_embed": 96}, '"hidden_size" is 64: must be what "n_embed" says, 96'),
    ("bloom", {"n_inner": 128}, '"n_inner" is 128: supported is only null'),
    ("gpt2", {"text_config": {}}, '"text_config" is {}: type gpt2 has no such key'),
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
        (b"\xff\xfe{}", "is not a text file in UTF-8: give a Hugging Face model directory"),
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


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ArchcError, match=r"cannot read x+: File name too long"):
        import_model(Path("x" * 5000))
