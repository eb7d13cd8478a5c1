"""DeepSeek V3 and its kin: attention by latents, experts scored by sigmoids, biased for the choice."""

from dataclasses import replace
from typing import Any

from archc.interop.config import Config
from archc.interop.family import Family, Known, Setting, activation, flag, layers, number, whole
from archc.interop.latent import FOLLOWING, gain, latent
from archc.interop.rope import rotary
from archc.interop.routing import (
    BIASED_SIGMOIDS,
    ROUTER_TRAINING,
    TRAINING_LAYERS,
    choices,
    dense_layers,
    experts,
    kept_groups,
)


def _listed_dense(config: Config, known: Known) -> int:
    """How many layers, from the first, have no experts; lists may say it again, and that all choose keys."""
    config.items("layer_types", known["layers"], (_INDEXED,).__contains__, f'"{_INDEXED}"')
    dense = config.whole("first_k_dense_replace", min(3, known["layers"]), least=0)
    return _dense_of_list(config, known, dense)


def _dense_of_list(config: Config, known: Known, missing: int) -> int:
    """How many layers, from the first, have no experts, by a list of all of them."""
    types = config.items("mlp_layer_types", known["layers"], (_DENSE, _SPARSE).__contains__, _KINDS)
    if types is None:
        return missing
    if _DENSE in types[types.count(_DENSE) :]:
        config.complain("mlp_layer_types", "supported is only that the dense layers come first")
    return types.count(_DENSE)


def _write_list(value: int, known: Known) -> dict[str, Any]:
    layers = known["layers"]
    return {"mlp_layer_types": [_DENSE if layer < value else _SPARSE for layer in range(layers)]}


_INDEXED, _DENSE, _SPARSE = "indexed_attention", "dense", "sparse"
_KINDS = f'"{_DENSE}" or "{_SPARSE}"'
_INERT = (
    *ROUTER_TRAINING,
    *FOLLOWING,
    *TRAINING_LAYERS,
    "aux_loss_alpha",
    "seq_aux",
    "ep_size",
    "pretraining_tp",
    "auto_map",  # the code of its own that this arch was written after
)
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    **BIASED_SIGMOIDS,
    "rope_interleave": ((True,), "since the arch's pairs are neighbours"),
}


def _family(model_type: str) -> Family:
    return Family(
        model_type=model_type,
        spec="deepseek_v3",
        arch="DeepseekV3",
        architectures=("DeepseekV3ForCausalLM",),
        parameters={
            "d": whole("hidden_size", 7168),
            "layers": layers("num_hidden_layers", 61),
            "dense": dense_layers(3),
            "heads": whole("num_attention_heads", 128),
            **latent(),
            "d_ff": whole("intermediate_size", 18432),
            "experts": experts("n_routed_experts", 256),
            "choices": choices("num_experts_per_tok", 8),
            "shared": whole("n_shared_experts", 1),
            "expert_d_ff": whole("moe_intermediate_size", 2048),
            "groups": whole("n_group", 8),
            "kept_groups": kept_groups(4),
            "normed": flag("norm_topk_prob", True),
            "routed_scale": number("routed_scaling_factor", 2.5),
            "vocab": whole("vocab_size", 129280),
            "eps": number("rms_norm_eps", 1e-6),
            "rope": rotary(theta=10000.0, context=4096, pairing="interleaved", width="rotary"),
            "gain": gain,
            "act": activation("hidden_act", "silu"),
            "attention_bias": flag("attention_bias", False),
            "tied": flag("tie_word_embeddings", False),
        },
        fixed=_FIXED,
        inert=_INERT,
        quantised="fp8",
    )


DEEPSEEK_V3 = _family("deepseek_v3")
KIMI_K2 = _family("kimi_k2")
DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    model_type="deepseek_v32",
    spec="deepseek_v32",
    arch="DeepseekV32",
    architectures=("DeepseekV32ForCausalLM",),
    parameters={
        **DEEPSEEK_V3.parameters,
        "dense": Setting(_listed_dense, lambda value, _known: {"first_k_dense_replace": int(value)}),
        "index_heads": whole("index_n_heads", 64),
        "index_dim": whole("index_head_dim", 128),
        "index_keys": whole("index_topk", 2048),
    },
    fixed={**_FIXED, "mlp_bias": ((False,), "since the arch's MLPs have none")},
)
SARVAM_MLA = replace(
    DEEPSEEK_V3,
    model_type="sarvam_mla",
    architectures=("DeepseekV3ForCausalLM", "SarvamMLAForCausalLM"),
    parameters={
        **DEEPSEEK_V3.parameters,
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "dense": dense_layers(1),
        "heads": whole("num_attention_heads", 64),
        **latent(q_rank=None),
        "d_ff": whole("intermediate_size", 16384),
        "experts": experts("n_routed_experts", 128, "num_experts"),
        "groups": whole("n_group", 1),
        "vocab": whole("vocab_size", 262144),
    },
)
GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    model_type="glm4_moe_lite",
    architectures=("Glm4MoeLiteForCausalLM",),
    parameters={
        **DEEPSEEK_V3.parameters,
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 47),
        "dense": Setting(lambda config, known: _dense_of_list(config, known, 1), _write_list),
        "heads": whole("num_attention_heads", 20),
        **latent(nope=192, v_dim=256, q_rank=768),
        "d_ff": whole("intermediate_size", 10240),
        "experts": experts("n_routed_experts", 64),
        "choices": choices("num_experts_per_tok", 4),
        "expert_d_ff": whole("moe_intermediate_size", 1536),
        "groups": whole("n_group", 1),
        "routed_scale": number("routed_scaling_factor", 1.8),
        "vocab": whole("vocab_size", 154880),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=10000.0, context=202752, pairing="interleaved", width="rotary"),
    },
    fixed={
        **_FIXED,
        "first_k_dense_replace": ((1,), "as in the class, which reads a list of layers alone"),
        "partial_rotary_factor": ((1.0, 1), "since the rotary part of a head has a key of its own"),
    },
)
