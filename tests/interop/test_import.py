"""`archc import`: every key is accounted for, and the spec means what the config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from archc import compiler
from archc.importer import import_model
from archc.interop.families import FAMILIES
from tests.interop.configs import FULL, LINEAR, REQUIRED, SLIDING, imported, parameters, write
from tests.interop.published import PUBLISHED
from tests.support import SPECS, compile_model

CLASSES = {
    "llama": transformers.LlamaConfig,
    "ernie4_5": transformers.Ernie4_5Config,
    "internlm3": transformers.InternLM3Config,
    "iquestcoder": transformers.IQuestCoderConfig,
    "mistral": transformers.MistralConfig,
    "ministral3": transformers.Ministral3Config,
    "minimax_m2": transformers.MiniMaxM2Config,
    "mixtral": transformers.MixtralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen2_moe": transformers.Qwen2MoeConfig,
    "qwen2_vl_text": transformers.Qwen2VLTextConfig,
    "qwen2_5_vl_text": transformers.Qwen2_5_VLTextConfig,
    "seed_oss": transformers.SeedOssConfig,
    "qwen3": transformers.Qwen3Config,
    "qwen3_vl_text": transformers.Qwen3VLTextConfig,
    "qwen3_vl_moe_text": transformers.Qwen3VLMoeTextConfig,
    "qwen3_moe": transformers.Qwen3MoeConfig,
    "qwen3_next": transformers.Qwen3NextConfig,
    "qwen3_5_text": transformers.Qwen3_5TextConfig,
    "qwen3_5_moe_text": transformers.Qwen3_5MoeTextConfig,
    "mamba2": transformers.Mamba2Config,
    "recurrent_gemma": transformers.RecurrentGemmaConfig,
    "smollm3": transformers.SmolLM3Config,
    "ministral": transformers.MinistralConfig,
    "cwm": transformers.CwmConfig,
    "olmo2": transformers.Olmo2Config,
    "olmo3": transformers.Olmo3Config,
    "phi3": transformers.Phi3Config,
    "granite": transformers.GraniteConfig,
    "gemma": transformers.GemmaConfig,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
    "cohere": transformers.CohereConfig,
    "cohere2": transformers.Cohere2Config,
    "exaone4": transformers.Exaone4Config,
    "lfm2": transformers.Lfm2Config,
    "starcoder2": transformers.Starcoder2Config,
    "gpt2": transformers.GPT2Config,
    "gpt_neox": transformers.GPTNeoXConfig,
    "bloom": transformers.BloomConfig,
    "gpt_oss": transformers.GptOssConfig,
    "llama4_text": transformers.Llama4TextConfig,
    "deepseek_v2": transformers.DeepseekV2Config,
    "deepseek_v3": transformers.DeepseekV3Config,
    "deepseek_v32": transformers.DeepseekV32Config,
    "kimi_k2": transformers.DeepseekV3Config,
    "glm4_moe_lite": transformers.Glm4MoeLiteConfig,
    "sarvam_mla": transformers.SarvamMLAConfig,
    "youtu": transformers.YoutuConfig,
    "glm4": transformers.Glm4Config,
    "glm4_moe": transformers.Glm4MoeConfig,
    "solar_open": transformers.SolarOpenConfig,
    "dots1": transformers.Dots1Config,
    "marian": transformers.MarianConfig,
    "t5": transformers.T5Config,
    "switch_transformers": transformers.SwitchTransformersConfig,
}


def newer(config: dict[str, Any]) -> dict[str, Any]:
    """A config in the dialect of transformers 5."""
    renamed = {"torch_dtype": "dtype"}
    given = {renamed.get(key, key): value for key, value in config.items()}
    theta, scaling = given.pop("rope_theta", None), given.pop("rope_scaling", None)
    same = theta if given["model_type"] == "olmo3" else None  # for layers with a window, but without scaling
    local, period = given.pop("rope_local_base_freq", same), given.pop("sliding_window_pattern", None)
    if theta is not None:
        kind = {"rope_type": scaling["type"]} if scaling and "type" in scaling else {}
        given["rope_parameters"] = {"rope_type": "default", **(scaling or {}), **kind, "rope_theta": theta}
    if local is not None:
        both = {FULL: given["rope_parameters"], SLIDING: {"rope_type": "default", "rope_theta": local}}
        given["rope_parameters"] = both
    if period is not None and "layer_types" not in given:
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
    required = REQUIRED.get(kind, {})
    CLASSES[kind](**required).save_pretrained(tmp_path / "saved")
    saved = parameters(import_model(tmp_path / "saved").text)
    assert imported(tmp_path / "bare", model_type=kind, **required) == saved


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
    ("ministral", {"sliding_window": None}, {"window": None, "windowed": None}),
    ("ministral", {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING]}, {"windowed": (False, True)}),
    ("cwm", {"num_hidden_layers": 5}, {"window": 8192, "windowed": (False, True, True, True, False)}),
    ("cwm", {"num_hidden_layers": 2, "layer_types": [FULL] * 2}, {"window": None, "windowed": None}),
    ("ernie4_5", {"use_bias": True, "head_dim": None}, {"mlp_bias": True, "head_dim": 64}),
    ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 1}, {"experts": 1, "choices": 1}),
    ("minimax_m2", {"num_experts": 60, "attn_type_list": [1] * 62}, {"experts": 60, "layers": 62}),
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
    ("qwen2_moe", {"sliding_window": 0}, {"window": None, "windowed": None}),
    (
        "qwen2_moe",
        {"num_hidden_layers": 4, "use_sliding_window": True, "max_window_layers": 1},
        {"window": 4096, "windowed": (True, False, False, False)},
    ),
    ("qwen2_moe", {"num_hidden_layers": 2, "mlp_only_layers": [1]}, {"sparse": (True, False)}),
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
    ("recurrent_gemma", {"_block_types": ["attention"]}, {"attends": (True,)}),
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
    ("glm4", {"head_dim": None, "num_attention_heads": 64}, {"head_dim": 64, "attention_bias": True}),
    (
        "glm4_moe",
        {"head_dim": 128, "use_qk_norm": True, "attention_bias": True, "n_group": 4, "topk_group": 3},
        {"heads_normed": True, "attention_bias": True, "output_bias": False, "groups": 4, "kept_groups": 3},
    ),
    (
        "dots1",
        {**REQUIRED["dots1"], "attention_bias": True, "num_hidden_layers": 2, "layer_types": [FULL] * 2},
        {"experts": 16, "choices": 3, "shared": 2, "output_bias": True, "layers": 2},
    ),
    ("dots1", {**REQUIRED["dots1"], "sliding_window": None, "max_window_layers": 0}, {"layers": 62}),
    ("gpt_oss", {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING]}, {"windowed": (False, True)}),
    ("gpt_oss", {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}, {"windowed": None}),
    (
        "ministral3",
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 4,
                "llama_4_scaling_beta": 0.2,
                "original_max_position_embeddings": 8,
            }
        },
        {"tuning": 0.2, "tuning_floor": 8},
    ),
    ("ministral3", {"rope_parameters": {"llama_4_scaling_beta": 0}}, {"tuning": None}),
    ("cohere", {"use_qk_norm": True, "num_key_value_heads": 8}, {"heads_normed": True, "windowed": None}),
    (
        "cohere2",
        {"num_hidden_layers": 4, "sliding_window_pattern": 2},
        {"window": 4096, "windowed": (True, False) * 2},
    ),
    (
        "cohere2",
        {"num_hidden_layers": 2, "layer_types": [FULL] * 2},
        {"window": None, "windowed": (False, False)},
    ),
    ("exaone4", {"num_hidden_layers": 2}, {"window": 4096, "windowed": (True, True)}),
    ("exaone4", {"sliding_window": None, "head_dim": 64}, {"windowed": None, "head_dim": 64}),
    (
        "exaone4",
        {"sliding_window": None, "num_hidden_layers": 2, "layer_types": [FULL] * 2},
        {"window": None, "windowed": None},
    ),
    (
        "exaone4",
        {"num_hidden_layers": 2, "layer_types": [FULL, SLIDING], "sliding_window_pattern": "LG"},
        {"windowed": (False, True)},
    ),
    ("exaone4", {"num_hidden_layers": 2, "layer_types": [FULL] * 2}, {"windowed": (False, False)}),
    ("lfm2", {"num_hidden_layers": 3, "full_attn_idxs": [1]}, {"attends": (False, True, False)}),
    (
        "lfm2",
        {"num_hidden_layers": 2, "full_attn_idxs": [0], "layer_types": ["conv", FULL]},
        {"attends": (False, True)},
    ),
    ("lfm2", {"block_ff_dim": 6656, "tie_embedding": False}, {"d_ff": 4608, "tied": False}),
    ("lfm2", {"intermediate_size": 300, "block_ffn_dim_multiplier": 1.5}, {"d_ff": 512}),
    ("lfm2", {"intermediate_size": 300, "block_ffn_dim_multiplier": None}, {"d_ff": 200}),
    ("lfm2", {"intermediate_size": 300, "block_auto_adjust_ff_dim": False}, {"d_ff": 300}),
    ("starcoder2", {"use_bias": False, "sliding_window": 7}, {"bias": False, "window": 7}),
    ("gemma", {"hidden_act": "gelu"}, {"tied": True, "head_dim": 256}),
    (
        "granite",
        {"logits_scaling": 8, "residual_multiplier": 0.5},
        {"logits_divisor": 8, "residual_factor": 0.5},
    ),
    ("phi3", {"sliding_window": 7, "num_key_value_heads": 8}, {"window": 7, "kv_heads": 8, "head_dim": 96}),
    (
        "gpt_neox",
        {"use_parallel_residual": False, "attention_bias": False},
        {"parallel": False, "d_ff": 24576},
    ),
    (
        "olmo3",
        {"num_hidden_layers": 4},
        {"window": 4096, "windowed": (True, True, True, False)},
    ),
    ("olmo3", {"num_hidden_layers": 2, "layer_types": [FULL] * 2}, {"window": None, "windowed": None}),
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
    ("llama4_text", {"attn_temperature_tuning": 4}, {"tuned": True}),
    ("llama4_text", {"attn_temperature_tuning": False}, {"tuned": False}),
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


_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("llama", {"max_sequence_length": 2048, "cache_implementation": "static"}),
        ("gpt2", {"gradient_checkpointing": False, "_num_labels": 1}),
        ("marian", {"extra_pos_embeddings": 58101, "_num_labels": 3, "gradient_checkpointing": False}),
        ("t5", {"architectures": ["T5WithLMHeadModel"], "gradient_checkpointing": False}),
        ("llama4_text", {"for_llm_compressor": False, "cache_implementation": "hybrid"}),
        ("deepseek_v2", {"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}}),
        ("mixtral", {"quantization_config": _FP8}),
        ("qwen3_moe", {"quantization_config": _FP8}),
        ("qwen3_next", {"quantization_config": _FP8}),
        ("deepseek_v2", {"quantization_config": _FP8}),
        (
            "qwen3_5_moe_text",
            {
                "attn_output_gate": True,
                "mamba_ssm_dtype": "float32",
                "mlp_only_layers": [],
                "mtp_num_hidden_layers": 1,
                "mtp_use_dedicated_embeddings": False,
                "rope_parameters": {"mrope_interleaved": True, "mrope_section": [11, 11, 10]},
            },
        ),
    ],
)
def test_keys_of_published_configs_that_change_nothing(
    kind: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    plain = imported(tmp_path / "plain", model_type=kind)
    assert imported(tmp_path / "x", model_type=kind, **keys) == plain


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_models_narrower_than_their_keys_compile(kind: str, tmp_path: Path) -> None:
    """What their layers read is kept in place of keys and values, so other fusions fire."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 99}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    compile_model(import_model(write(tmp_path / "x", {"model_type": kind, **sizes, **heads})).text, "x")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_python", "gelu"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
    ],
)
def test_activations(theirs: str, ours: str, tmp_path: Path) -> None:
    assert imported(tmp_path / "a", model_type="llama", hidden_act=theirs)["act"].name == ours
    assert imported(tmp_path / "b", model_type="gpt2", activation_function=theirs)["act"].name == ours


def test_gemma_calls_the_approximation_by_the_function_s_name(tmp_path: Path) -> None:
    assert imported(tmp_path / "a", model_type="gemma", hidden_act="gelu")["act"].name == "gelu_tanh"
