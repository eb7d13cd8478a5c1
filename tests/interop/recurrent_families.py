"""Configs of families with state spaces or linear attention, whose specs under families/ the tests run."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers as hf

from tests.interop.parity import EPS, VOCABULARY, rms, rope, sizes

TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def scan(**changes: Any) -> dict[str, Any]:
    """Sizes of a model that consists of selective scans."""
    small = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "state_size": 10}
    return {**small, "layer_norm_epsilon": EPS, **TOKENS, **changes}


def qwen3_5(**changes: Any) -> dict[str, Any]:
    """Sizes of Qwen3.5: keys of the delta rule serve two heads of values, frequencies are of three axes."""
    delta = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 10,
        "linear_value_head_dim": 12,
    }
    axes = {"mrope_section": [1, 2, 1], "mrope_interleaved": True}
    small = sizes(intermediate_size=None, num_hidden_layers=4, head_dim=16, rms_norm_eps=EPS, **delta)
    return {**small, **rope(partial_rotary_factor=0.5, **axes), **changes}


QWEN3_5_EXPERTS = {
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 28,
    "shared_expert_intermediate_size": 28,  # as wide as an expert, of which it becomes one
}

# Mamba-2's mixer: eight heads, of which four share the projections to and from the state.
MIXER = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 10, "mamba_n_groups": 2}

WITH_STATES = {
    "bamba": rms(hf.BambaConfig, attn_layer_indices=[1], **MIXER),
    "falcon_h1": rms(
        hf.FalconH1Config,
        num_hidden_layers=2,
        head_dim=None,
        mamba_d_ssm=40,
        mamba_n_heads=4,
        mamba_d_head=10,
        mamba_n_groups=2,
        mamba_d_state=6,
        mamba_d_conv=3,
        mamba_chunk_size=4,
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        attention_in_multiplier=0.8,
        attention_out_multiplier=0.6,
        key_multiplier=0.7,
        ssm_in_multiplier=1.3,
        ssm_out_multiplier=0.9,
        mlp_multipliers=[0.9, 1.2],
        ssm_multipliers=[0.5, 0.6, 0.7, 0.8, 0.9],
        embedding_multiplier=2.5,
        lm_head_multiplier=0.4,
        tie_word_embeddings=False,
        **rope(),
    ),
    "falcon_mamba": partial(hf.FalconMambaConfig, **scan(mixer_rms_eps=EPS)),
    "granitemoehybrid": rms(
        hf.GraniteMoeHybridConfig,
        intermediate_size=32,
        shared_intermediate_size=40,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_local_experts=5,
        num_experts_per_tok=3,
        embedding_multiplier=3.5,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=6.0,
        tie_word_embeddings=True,
        **MIXER,
    ),
    "granitemoehybrid_dense": rms(
        hf.GraniteMoeHybridConfig,
        num_hidden_layers=2,
        shared_intermediate_size=40,
        layer_types=["full_attention", "linear_attention"],
        num_local_experts=0,
        position_embedding_type="rope",
        tie_word_embeddings=True,
        mamba_n_heads=4,
        mamba_d_head=24,
        mamba_d_state=10,
        **rope(),
    ),
    "jamba": rms(
        hf.JambaConfig,
        num_hidden_layers=4,
        intermediate_size=32,
        num_experts=5,
        num_experts_per_tok=3,
        attn_layer_period=3,
        attn_layer_offset=1,
        mamba_d_state=10,
        mamba_dt_rank=5,
    ),
    "kimi_linear": rms(
        hf.KimiLinearConfig,
        num_key_value_heads=6,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        mlp_layer_types=["dense", "sparse", "sparse"],
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        kv_lora_rank=16,
        linear_num_heads=4,
        linear_head_dim=10,
        moe_intermediate_size=20,
        num_local_experts=6,
        num_experts_per_tok=3,
        n_group=3,
        topk_group=2,
    ),
    "mamba": partial(hf.MambaConfig, **scan()),
    "mamba_biased": partial(
        hf.MambaConfig,
        **scan(num_hidden_layers=2, state_size=6),
        time_step_rank=5,
        conv_kernel=3,
        use_bias=True,
        use_conv_bias=False,
        tie_word_embeddings=False,
    ),
    "minimax": rms(
        hf.MiniMaxConfig,
        head_dim=12,
        num_local_experts=5,
        block_size=4,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        full_attn_alpha_factor=1.5,
        full_attn_beta_factor=0.5,
        linear_attn_alpha_factor=0.7,
        linear_attn_beta_factor=1.2,
        mlp_alpha_factor=1.1,
        mlp_beta_factor=0.9,
        **rope(),
    ),
    "nemotron_h": partial(
        hf.NemotronHConfig,
        **sizes(num_hidden_layers=None, head_dim=12),
        layers_block_type=["linear_attention", "mlp", "full_attention", "moe"],
        layer_norm_epsilon=EPS,
        mamba_num_heads=8,
        mamba_head_dim=10,
        ssm_state_size=10,
        n_groups=2,
        n_routed_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        moe_shared_expert_intermediate_size=40,
        moe_latent_size=20,
        routed_scaling_factor=1.7,
        n_group=3,
        topk_group=2,
    ),
    "rwkv": partial(
        hf.RwkvConfig,
        vocab_size=VOCABULARY,
        hidden_size=48,
        attention_hidden_size=40,
        intermediate_size=80,
        num_hidden_layers=3,
        layer_norm_epsilon=EPS,
        rescale_every=0,
        use_cache=False,
        **TOKENS,
    ),
    "xlstm": partial(
        hf.xLSTMConfig,
        vocab_size=VOCABULARY,
        hidden_size=128,  # of which transformers' cache takes multiples of 64 alone
        num_hidden_layers=2,
        num_heads=4,
        ffn_proj_factor=1.0,
        norm_eps=EPS,
        eps=EPS,
        **TOKENS,
    ),
}
