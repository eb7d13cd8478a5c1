"""Checkpoints of transformers, imported, built and run: the same numbers as transformers' own classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    CwmConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Dots1Config,
    Ernie4_5Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    MiniMaxM2Config,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    SeedOssConfig,
    SmolLM3Config,
    SolarOpenConfig,
    Starcoder2Config,
    YoutuConfig,
)

from archc.importer import import_model
from tests.interop.parity import (
    EPS,
    EXACT,
    LOGITS,
    ROUNDED,
    VOCABULARY,
    CloserTests,
    Pair,
    ParityTests,
    both,
    random_tokens,
    save_random,
    sizes,
    through_cache,
)
from tests.interop.recurrent_families import QWEN3_5_EXPERTS, qwen3_5
from tests.support import SPECS, build, distance, few

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # the eight frequencies of a head lie on all three sides
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.8,
    "mscale_all_dim": 0.7,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def rms(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """A small config of a family with RMS norms."""
    return config(**sizes(rms_norm_eps=EPS, **changes))


def ln(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """A small config of a family with layer norms."""
    return config(**sizes(layer_norm_eps=EPS, **changes))


def latent(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """A small config of a family with attention by latents."""
    return rms(
        config,
        num_attention_heads=3,
        num_key_value_heads=3,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        kv_lora_rank=16,
        **changes,
    )


def latent_experts(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """The same with experts, after one dense layer."""
    return latent(
        config,
        moe_intermediate_size=20,
        n_routed_experts=12,
        num_experts_per_tok=3,
        first_k_dense_replace=1,
        **changes,
    )


def grouped_experts(config: Callable[..., PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """Experts in two groups, of which one is kept, under grouped-query attention."""
    return rms(
        config,
        head_dim=12,
        moe_intermediate_size=24,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_shared_experts=2,
        n_group=2,
        **changes,
    )


def mamba2(**changes: Any) -> PretrainedConfig:
    """Two heads share the projections to and from the state, and norms are of two parts."""
    small = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_heads": 4}
    widths = {"head_dim": 24, "state_size": 10, "n_groups": 2, "layer_norm_epsilon": EPS}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return Mamba2Config(**{**small, **widths, **tokens, **changes})


def qwen3_next(**changes: Any) -> PretrainedConfig:
    """Queries and keys of the delta rule serve two heads of values each."""
    small = {
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 10,
        "linear_value_head_dim": 12,
        "moe_intermediate_size": 28,
        "shared_expert_intermediate_size": 36,
        "num_experts": 7,
        "num_experts_per_tok": 3,
    }
    return rms(Qwen3NextConfig, **{**small, **changes})


def gpt2(**changes: Any) -> PretrainedConfig:
    small = {"vocab_size": VOCABULARY, "n_embd": 60, "n_layer": 3, "n_head": 5, "n_positions": 64}
    return GPT2Config(
        **{**small, "layer_norm_epsilon": EPS, "bos_token_id": None, "eos_token_id": None, **changes}
    )


def gpt_neox(**changes: Any) -> PretrainedConfig:
    small = sizes(num_attention_heads=3, num_key_value_heads=None, layer_norm_eps=EPS)
    return GPTNeoXConfig(**{**small, **changes})


def bloom(**changes: Any) -> PretrainedConfig:
    small = {
        "vocab_size": VOCABULARY,
        "hidden_size": 60,
        "n_layer": 3,
        "n_head": 5,
        "layer_norm_epsilon": EPS,
    }
    return BloomConfig(**{**small, "bos_token_id": None, "eos_token_id": None, **changes})


CASES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: rms(LlamaConfig),
    "llama_scaled_tied": lambda: rms(LlamaConfig, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "llama_linear": lambda: rms(LlamaConfig, rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=1e5),
    "llama_biased": lambda: rms(LlamaConfig, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama_wide_heads": lambda: rms(MistralConfig, sliding_window=None, head_dim=14),
    "ernie4_5": lambda: rms(Ernie4_5Config, head_dim=12, use_bias=True),
    "mistral": lambda: rms(MistralConfig, sliding_window=5),
    "ministral": lambda: rms(
        MinistralConfig, head_dim=12, sliding_window=5, layer_types=[FULL, SLIDING, FULL]
    ),
    "cwm": lambda: CwmConfig(**{**sizes(rms_norm_eps=EPS, head_dim=12, sliding_window=5), "bos_token_id": 0}),
    "seed_oss": lambda: rms(SeedOssConfig, head_dim=12),
    "qwen2": lambda: rms(Qwen2Config, tie_word_embeddings=True),
    "qwen2_windows": lambda: rms(
        Qwen2Config, use_sliding_window=True, sliding_window=5, max_window_layers=1, num_attention_heads=4
    ),
    "qwen2_listed": lambda: rms(
        Qwen2Config, use_sliding_window=True, sliding_window=4, layer_types=[SLIDING, FULL, SLIDING]
    ),
    "qwen3": lambda: rms(Qwen3Config, head_dim=12),
    "qwen3_windows": lambda: rms(
        Qwen3Config,
        head_dim=10,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=2,
    ),
    "mixtral": lambda: rms(MixtralConfig, num_local_experts=5),
    "mixtral_window": lambda: rms(
        MixtralConfig, num_local_experts=4, num_experts_per_tok=4, sliding_window=5, tie_word_embeddings=True
    ),
    "minimax_m2": lambda: rms(
        MiniMaxM2Config,
        num_hidden_layers=2,
        head_dim=12,
        intermediate_size=32,
        num_local_experts=5,
        num_experts_per_tok=3,
        rotary_dim=6,
    ),
    "qwen2_moe": lambda: rms(
        Qwen2MoeConfig,
        moe_intermediate_size=28,
        shared_expert_intermediate_size=40,
        num_experts=5,
        num_experts_per_tok=3,
        mlp_only_layers=[1],
        use_sliding_window=True,
        sliding_window=5,
    ),
    "qwen3_moe": lambda: rms(
        Qwen3MoeConfig,
        head_dim=12,
        moe_intermediate_size=28,
        num_experts=7,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    ),
    "qwen3_moe_mixed": lambda: rms(
        Qwen3MoeConfig,
        num_hidden_layers=4,
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=2,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        use_sliding_window=True,
        sliding_window=6,
        attention_bias=True,
    ),
    "qwen3_next": lambda: qwen3_next(num_hidden_layers=4),
    "qwen3_next_listed": lambda: qwen3_next(
        layer_types=[FULL, "linear_attention", FULL],
        linear_num_value_heads=2,
        linear_conv_kernel_dim=3,
        norm_topk_prob=False,
        mlp_only_layers=[2],
        attention_bias=True,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
    "qwen3_5": lambda: Qwen3_5TextConfig(
        **qwen3_5(intermediate_size=80, num_hidden_layers=2, layer_types=["linear_attention", FULL])
    ),
    "qwen3_5_moe": lambda: Qwen3_5MoeTextConfig(**qwen3_5(**QWEN3_5_EXPERTS)),
    "recurrent_gemma": lambda: rms(RecurrentGemmaConfig, attention_window_size=5, conv1d_width=3),
    "mamba2": mamba2,
    "mamba2_biased": lambda: mamba2(
        n_groups=1, conv_kernel=3, use_bias=True, use_conv_bias=False, tie_word_embeddings=True
    ),
    "gpt_oss": lambda: rms(
        GptOssConfig,
        head_dim=12,
        intermediate_size=28,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=5,
    ),
    "llama4": lambda: rms(
        Llama4TextConfig,
        num_hidden_layers=4,
        head_dim=12,
        intermediate_size=28,
        intermediate_size_mlp=80,
        num_local_experts=5,
        interleave_moe_layer_step=2,
        attention_chunk_size=6,
        floor_scale=4,
    ),
    "llama4_no_chunks": lambda: rms(
        Llama4TextConfig,
        head_dim=12,
        num_local_experts=3,
        num_experts_per_tok=2,
        moe_layers=[0, 2],
        no_rope_layers=[1, 0, 1],
        attention_chunk_size=None,
        use_qk_norm=False,
        attn_temperature_tuning=False,
    ),
    "deepseek_v2": lambda: latent_experts(
        DeepseekV2Config,
        q_lora_rank=20,
        n_group=4,
        topk_group=2,
        topk_method="group_limited_greedy",
        routed_scaling_factor=2.0,
        rope_parameters=YARN,
    ),
    "deepseek_v2_lite": lambda: latent_experts(DeepseekV2Config, q_lora_rank=None),
    "deepseek_v3": lambda: latent_experts(
        DeepseekV3Config, q_lora_rank=20, n_group=4, topk_group=2, n_shared_experts=1, rope_parameters=YARN
    ),
    "kimi_k2": lambda: latent_experts(
        DeepseekV3Config, q_lora_rank=20, n_group=1, topk_group=1, norm_topk_prob=False
    ),
    "glm4_moe_lite": lambda: latent_experts(
        Glm4MoeLiteConfig, q_lora_rank=20, mlp_layer_types=["dense"] * 2 + ["sparse"]
    ),
    "glm4": lambda: rms(Glm4Config, head_dim=12),
    "glm4_moe": lambda: grouped_experts(
        Glm4MoeConfig, use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5
    ),
    "solar_open": lambda: grouped_experts(SolarOpenConfig, intermediate_size=None, attention_bias=True),
    "dots1": lambda: grouped_experts(Dots1Config, first_k_dense_replace=1, attention_bias=True),
    "youtu": lambda: latent(YoutuConfig, q_lora_rank=20, attention_bias=True, rope_parameters=YARN),
    "smollm3": lambda: rms(SmolLM3Config, num_hidden_layers=5),
    "smollm3_windows": lambda: rms(
        SmolLM3Config,
        num_hidden_layers=4,
        no_rope_layers=[0, 1, 1, 0],
        use_sliding_window=True,
        sliding_window=5,
        tie_word_embeddings=False,
    ),
    "olmo2": lambda: rms(Olmo2Config),
    "olmo3": lambda: rms(
        Olmo3Config,
        num_hidden_layers=4,
        sliding_window=5,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
    "phi3": lambda: rms(Phi3Config, hidden_size=96, sliding_window=5, partial_rotary_factor=0.75),
    "phi3_long": lambda: rms(
        Phi3Config,
        tie_word_embeddings=True,
        max_position_embeddings=128,
        original_max_position_embeddings=64,  # more than any sequence here
        rope_scaling={"type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0] * 4},
    ),
    "granite": lambda: rms(
        GraniteConfig,
        embedding_multiplier=3.5,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=6.0,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "granite_plain": lambda: rms(GraniteConfig, num_key_value_heads=None, logits_scaling=3.0),
    "ministral3": lambda: rms(
        Ministral3Config,
        head_dim=12,
        rope_parameters={**YARN, "original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.5},
    ),
    "cohere": lambda: ln(CohereConfig, use_qk_norm=True),
    "cohere2": lambda: ln(
        Cohere2Config, num_hidden_layers=4, sliding_window=5, sliding_window_pattern=3, logit_scale=0.25
    ),
    "exaone4": lambda: rms(Exaone4Config, num_hidden_layers=4, sliding_window=5, sliding_window_pattern=3),
    "exaone4_unwindowed": lambda: rms(Exaone4Config, sliding_window=None, layer_types=[FULL] * 3),
    "lfm2": lambda: Lfm2Config(
        **sizes(norm_eps=EPS, conv_L_cache=4),
        full_attn_idxs=[1],
        conv_bias=True,
        block_multiple_of=24,
        block_ffn_dim_multiplier=1.3,
    ),
    "starcoder2": lambda: Starcoder2Config(**sizes(norm_epsilon=EPS, sliding_window=5)),
    "gpt_neox": gpt_neox,
    "gpt_neox_sequential": lambda: gpt_neox(
        rotary_pct=0.5, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True
    ),
    "gemma": lambda: rms(
        GemmaConfig, hidden_size=40, intermediate_size=72, num_key_value_heads=1, head_dim=12
    ),
    # Caps that bend what the random weights give.
    "gemma2": lambda: rms(
        Gemma2Config,
        head_dim=12,
        sliding_window=5,
        query_pre_attn_scalar=25,
        attn_logit_softcapping=4.0,
        final_logit_softcapping=6.0,
    ),
    "gemma2_listed": lambda: rms(
        Gemma2Config,
        head_dim=10,
        sliding_window=4,
        layer_types=[FULL, SLIDING, SLIDING],
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    "gemma3": lambda: rms(
        Gemma3TextConfig,
        num_hidden_layers=4,
        head_dim=12,
        sliding_window=5,
        sliding_window_pattern=3,
        query_pre_attn_scalar=25,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "gemma3_listed": lambda: rms(
        Gemma3TextConfig,
        head_dim=10,
        sliding_window=3,
        layer_types=[FULL, SLIDING, FULL],
        rope_parameters={
            FULL: {"rope_type": "default", "rope_theta": 500.0},
            SLIDING: {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0},
        },
        attention_bias=True,
        hidden_activation="silu",
    ),
    "gpt2": gpt2,
    "gpt2_inverse": lambda: gpt2(
        scale_attn_by_inverse_layer_idx=True, n_inner=72, activation_function="relu"
    ),
    "gpt2_unscaled": lambda: gpt2(scale_attn_weights=False, tie_word_embeddings=False),
    "bloom": bloom,
    "bloom_normed": lambda: bloom(
        apply_residual_connection_post_layernorm=True, tie_word_embeddings=False, n_head=4
    ),
    # PaLM's graph, which no class of transformers has to itself.
    "palm": lambda: CohereConfig(
        **sizes(num_attention_heads=3, num_key_value_heads=1, head_dim=8, intermediate_size=192),
        layer_norm_eps=EPS,
        logit_scale=48**-0.5,
        use_qk_norm=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
}


def make_pair(name: str, folder: Path, settings: dict[str, str] | None = None) -> Pair:
    """The pair of a case; `settings` give parameters of its arch other values."""
    config = CASES[name]()
    theirs = save_random(config, folder / "tiny")
    if name == "kimi_k2":  # DeepSeek-V3's class under another name
        file = folder / "tiny" / "config.json"
        file.write_text(file.read_text().replace('"deepseek_v3"', '"kimi_k2"'))
    if name == "palm":
        given = {"vocab": str(VOCABULARY), "layers": "3", "eps": str(EPS)}
        package = build(SPECS / "palm.arch", "palm_tiny", folder, given)
    else:
        package = build(import_model(folder / "tiny").text, "tiny", folder, settings)
    return Pair(theirs, folder / "tiny", package, EXACT if name.startswith("gpt2") else ROUNDED)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


class TestParity(ParityTests):
    pass


@both
class TestParityCloser(CloserTests):
    pass


def test_steps_have_limits(tmp_path: Path) -> None:
    """A sequence read at once: decoding, transformers forgets the limits."""
    theirs = save_random(mamba2(time_step_limit=(0.3, 1.5)), tmp_path / "tiny")
    text, tokens = import_model(tmp_path / "tiny").text, random_tokens()
    assert "least_step = 0.3" in text
    assert "largest_step = 1.5" in text
    model = build(text, "tiny", tmp_path).Model.from_pretrained(tmp_path / "tiny")
    with torch.no_grad():
        truth = theirs(tokens).logits
        assert distance(model(tokens), truth) < LOGITS
        assert distance(through_cache(model, tokens), truth) < LOGITS


@pytest.mark.parametrize(
    ("name", "setting"),
    few(
        [
            ("llama", {"eps": "0.0201"}),
            ("llama", {"rope": "rope(theta = 10000, pairing = interleaved)"}),
            ("llama_scaled_tied", {"rope": "rope(theta = 500000)"}),
            ("mistral", {"window": "6"}),
            ("qwen2_windows", {"full_layers": "2"}),
            ("smollm3", {"nope_every": "3"}),
            ("gemma2", {"softcap": "4.2"}),
            ("gemma2", {"logit_softcap": "6.1"}),
            ("gemma2", {"window": "4"}),
            ("gemma3", {"local_rope": "rope(theta = 11000)"}),
            ("gemma3", {"rope": "rope(theta = 1000000)"}),
            ("gemma3", {"full_every": "2"}),
            ("llama4", {"rope": "rope(theta = 500000, pairing = half)"}),
            ("llama4", {"chunk": "7"}),
            ("gpt_oss", {"window": "6"}),
            ("minimax_m2", {"rope": "rope(theta = 5000000)"}),
            ("qwen2_moe", {"normed": "true"}),
            ("glm4", {"rope": "rope(theta = 10000, width = 6)"}),
            ("glm4_moe", {"rope": "rope(theta = 10000)"}),
            ("glm4_moe", {"kept_groups": "2"}),
            ("qwen3_next", {"normed": "false"}),
            ("qwen3_next", {"rope": "rope(theta = 10000, width = 6)"}),
            ("gpt2", {"act": "gelu"}),
            ("granite", {"attention_factor": "0.21"}),
            ("lfm2", {"rope": "rope(theta = 100)"}),
            ("exaone4", {"windowed": "none"}),
            ("ministral3", {"tuning_floor": "5"}),
            ("olmo3", {"local_rope": "rope(theta = 400000)"}),
            ("bloom", {"residual_normed": "true"}),
        ],
        8,
    ),
)
def test_a_wrong_parameter_shows(name: str, setting: dict[str, str], tmp_path: Path) -> None:
    pair = make_pair(name, tmp_path, setting)
    with torch.no_grad():
        apart = distance(pair.ours("Model")(random_tokens()), pair.theirs(random_tokens()).logits)
    assert apart > 3 * LOGITS


_NORM_FIRST = "rms_norm(y, eps, weight = false) * silu(upcast(z))"


@pytest.mark.parametrize(
    ("name", "spec", "right", "wrong"),
    [
        # Twice as much of the softmax's denominator, as if it were there twice.
        ("gpt_oss", "gpt_oss", "as sinks)", f"as sinks + {math.log(2)})"),
        # What is normed is the gated value.
        ("mamba2", "mamba2", "rms_norm(y * silu(upcast(z)), eps, weight = false)", _NORM_FIRST),
        ("minimax_m2", "minimax_m2", "gather(scores, chosen)", "gather(scores + bias, chosen)"),
        ("qwen3_next", "qwen3_next", "+ 1e-6)", "+ 1e-2)"),
        # The scale inside of the cap's argument only, not in what the cap bends.
        ("gemma2", "gemma2", "scale = scale, softcap = softcap", "scale = scale, softcap = softcap * scale"),
    ],
)
def test_a_wrong_spec_shows(name: str, spec: str, right: str, wrong: str, tmp_path: Path) -> None:
    theirs = save_random(CASES[name](), tmp_path / "tiny")
    text = (SPECS / f"{spec}.arch").read_text()
    assert right in text
    (tmp_path / f"{spec}.arch").write_text(text.replace(right, wrong))
    (tmp_path / "model.arch").write_text(import_model(tmp_path / "tiny").text)
    package = build(tmp_path / "model.arch", "tiny", tmp_path)
    with torch.no_grad():
        ours = package.Model.from_pretrained(tmp_path / "tiny")(random_tokens())
        assert distance(ours, theirs(random_tokens()).logits) > 3 * LOGITS
