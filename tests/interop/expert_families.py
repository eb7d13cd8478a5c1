"""Configs of families with experts: the parity tests run their specs under families/."""

from __future__ import annotations

from functools import partial

import transformers as hf
from transformers.models.inkling.configuration_inkling import InklingTextConfig
from transformers.models.inkling.modeling_inkling import InklingForCausalLM

from tests.interop.parity import EPS, VOCABULARY, rms, rope, sizes

# The text model of one that also sees and hears, which transformers loads as a whole alone.
hf.AutoModelForCausalLM.register(InklingTextConfig, InklingForCausalLM, exist_ok=True)

EXPERTS = {"num_experts": 5, "num_experts_per_tok": 3}
LOCAL_EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 3}

WITH_EXPERTS = {
    "afmoe": rms(
        hf.AfmoeConfig,
        moe_intermediate_size=32,
        head_dim=12,
        num_shared_experts=2,
        route_scale=1.7,
        sliding_window=5,
        global_attn_every_n_layers=3,
        mup_enabled=True,
        **EXPERTS,
    ),
    "dbrx": partial(
        hf.DbrxConfig,
        d_model=48,
        n_heads=4,
        n_layers=2,
        vocab_size=VOCABULARY,
        max_seq_len=64,
        attn_config={"kv_n_heads": 2, "clip_qkv": 1.5, "rope_theta": 500000.0},
        ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 5, "moe_top_k": 3},
        **rope(500000.0),
    ),
    "deepseek_v32": rms(
        hf.DeepseekV32Config,
        num_attention_heads=3,
        num_key_value_heads=3,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=10,
        kv_lora_rank=16,
        q_lora_rank=20,
        n_routed_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=20,
        n_group=3,
        topk_group=2,
        index_topk=5,
        index_head_dim=12,
        index_n_heads=8,
        mlp_layer_types=["dense", "sparse", "sparse"],
        **rope(),
    ),
    "granitemoeshared": rms(
        hf.GraniteMoeSharedConfig,
        num_hidden_layers=2,
        intermediate_size=32,
        shared_intermediate_size=40,
        embedding_multiplier=3.5,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=6.0,
        tie_word_embeddings=True,
        **LOCAL_EXPERTS,
    ),
    "inkling": rms(
        InklingTextConfig,
        head_dim=12,
        swa_num_attention_heads=6,
        swa_num_key_value_heads=3,
        swa_head_dim=12,
        sliding_window_size=6,
        d_rel=5,
        rel_extent=9,
        log_scaling_n_floor=4,
        layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
        mlp_layer_types=["dense", "sparse", "sparse"],
        moe_intermediate_size=20,
        n_routed_experts=5,
        num_experts_per_tok=2,
        n_shared_experts=2,
        route_scale=1.7,
        logits_mup_width_multiplier=3.0,
    ),
    "jetmoe": partial(
        hf.JetMoeConfig,
        **sizes(num_attention_heads=None, intermediate_size=32, num_hidden_layers=2),
        kv_channels=12,
        rms_norm_eps=EPS,
        num_local_experts=5,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    ),
    "minimax_m3": rms(
        hf.MiniMaxM3VLTextConfig,
        intermediate_size=32,
        dense_intermediate_size=80,
        shared_intermediate_size=40,
        head_dim=12,
        rotary_dim=8,
        index_n_heads=2,
        index_head_dim=12,
        index_block_size=3,
        index_topk_blocks=2,
        layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
        mlp_layer_types=["dense", "sparse", "sparse"],
        **LOCAL_EXPERTS,
        **rope(partial_rotary_factor=8 / 12),
    ),
    "olmoe": rms(hf.OlmoeConfig, num_hidden_layers=2, intermediate_size=32, clip_qkv=1.5, **EXPERTS),
    "phimoe": rms(
        hf.PhimoeConfig,
        num_hidden_layers=2,
        intermediate_size=32,
        num_local_experts=5,
        num_experts_per_tok=2,
        router_jitter_noise=0.2,
        attention_bias=True,
        lm_head_bias=True,
        **rope(),
    ),
    "qwen2_moe": rms(
        hf.Qwen2MoeConfig,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=40,
        mlp_only_layers=[1],
        **EXPERTS,
    ),
    "zaya": rms(
        hf.ZayaConfig,
        intermediate_size=None,
        head_dim=8,
        num_experts=5,
        moe_intermediate_size=20,
        router_hidden_size=16,
        cca_time1=3,
        rope_parameters={
            "hybrid": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
        },
    ),
}
