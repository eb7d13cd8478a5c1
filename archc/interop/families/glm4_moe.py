"""GLM 4.5 and its kin: DeepSeek-V3's experts under grouped-query attention."""

from dataclasses import replace

from archc.interop.config import Config
from archc.interop.family import (
    MAX_LAYERS,
    Family,
    Known,
    Reader,
    Setting,
    activation,
    constant,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import partly_rotary, rotary
from archc.interop.routing import (
    BIASED_SIGMOIDS,
    MAX_EXPERTS,
    ROUTER_TRAINING,
    TRAINING_LAYERS,
    choices,
    dense_layers,
    experts,
    kept_groups,
)
from archc.interop.windows import FULL


def _layers_of_dots(config: Config, _known: Known) -> int:
    """How many layers there are, none of them with a window."""
    count = config.whole("num_hidden_layers", 62, most=MAX_LAYERS)
    types = config.items("layer_types", count, FULL.__eq__, f'"{FULL}"')
    first = config.whole("max_window_layers", 62, null=62, least=0)
    if types is None and first < count and config.get("sliding_window", 4096) is not None:
        config.complain("max_window_layers", "supported are only layers without a window")
    return count


def _stated(key: str, among: str = "") -> Reader:
    """A whole number that the class has no default for, at most what the parameter `among` says."""

    def read(config: Config, known: Known) -> int:
        return config.whole(key, 0, most=known.get(among) or MAX_EXPERTS)

    return Setting(read, lambda value, _known: {key: int(value)})


_INERT = (*ROUTER_TRAINING, *TRAINING_LAYERS)

GLM4_MOE = Family(
    model_type="glm4_moe",
    spec="glm4_moe",
    arch="Glm4Moe",
    architectures=("Glm4MoeForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 46),
        "dense": dense_layers(1),
        "heads": whole("num_attention_heads", 96),
        "kv_heads": key_value_heads(8),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 10944),
        "experts": experts("n_routed_experts", 128),
        "choices": choices("num_experts_per_tok", 8),
        "shared": whole("n_shared_experts", 1),
        "expert_d_ff": whole("moe_intermediate_size", 1408),
        "groups": whole("n_group", 1),
        "kept_groups": kept_groups(1),
        "normed": flag("norm_topk_prob", True),
        "routed_scale": number("routed_scaling_factor", 1.0),
        "vocab": whole("vocab_size", 151552),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": partly_rotary(theta=10000.0, context=131072, share=0.5),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "output_bias": constant(False),
        "heads_normed": flag("use_qk_norm", False),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed=BIASED_SIGMOIDS,
    inert=_INERT,
)
SOLAR_OPEN = replace(
    GLM4_MOE,
    model_type="solar_open",
    architectures=("SolarOpenForCausalLM",),
    parameters={
        **GLM4_MOE.parameters,
        "layers": layers("num_hidden_layers", 48),
        "dense": constant(0),
        "heads": whole("num_attention_heads", 64),
        "head_dim": whole("head_dim", 128),
        "d_ff": constant(None),
        "expert_d_ff": whole("moe_intermediate_size", 1280),
        "vocab": whole("vocab_size", 196608),
        "rope": rotary(theta=1000000.0, context=131072),
        "heads_normed": constant(False),
    },
    fixed={
        **BIASED_SIGMOIDS,
        "first_k_dense_replace": ((0,), "as in the class, all of whose layers have experts"),
        "use_qk_norm": ((False,), "as in the class"),
    },
    inert=(*_INERT, "intermediate_size"),  # of layers without experts
)
DOTS1 = replace(
    GLM4_MOE,
    model_type="dots1",
    architectures=("Dots1ForCausalLM",),
    parameters={
        **GLM4_MOE.parameters,
        "d": whole("hidden_size", 4608),
        "layers": Setting(_layers_of_dots, lambda value, _known: {"num_hidden_layers": int(value)}),
        "dense": dense_layers(0),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(32),
        "experts": _stated("n_routed_experts"),
        "choices": _stated("num_experts_per_tok", "experts"),
        "shared": _stated("n_shared_experts"),
        "normed": flag("norm_topk_prob", False),
        "vocab": whole("vocab_size", 152064),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=2048),
        "output_bias": flag("attention_bias", False),
        "heads_normed": constant(True),
    },
    inert=(
        *_INERT,
        "sliding_window",  # of layers with a window
        "use_sliding_window",
        "pretraining_tp",
        "auto_map",  # the code of its own that the class was written after
    ),
)
