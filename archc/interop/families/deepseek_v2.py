"""DeepSeek V2: attention by latents, experts scored by a softmax."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import Family, Known, Setting, activation, flag, layers, number, whole
from archc.interop.latent import FOLLOWING, gain, latent
from archc.interop.rope import rotary
from archc.interop.routing import ROUTER_TRAINING, choices, dense_layers, experts

_METHODS = ("greedy", "group_limited_greedy")


def _limited(config: Config) -> bool:
    return config.choice("topk_method", "greedy", _METHODS) == "group_limited_greedy"


def _groups(config: Config, known: Known) -> int | None:
    """How many groups experts lie in, None where all are chosen from alike."""
    count = config.whole("n_group", 1, null=1, most=known["experts"])
    return count if _limited(config) else None


def _write_groups(value: int | None, _known: Known) -> dict[str, Any]:
    plain, limited = _METHODS
    return {"topk_method": plain} if value is None else {"topk_method": limited, "n_group": int(value)}


def _kept_groups(config: Config, known: Known) -> int | None:
    kept = config.whole("topk_group", 1, null=1)
    return kept if known["groups"] is not None else None


def _write_kept_groups(value: int | None, _known: Known) -> dict[str, Any]:
    return {} if value is None else {"topk_group": int(value)}


DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    spec="deepseek_v2",
    arch="DeepseekV2",
    architectures=("DeepseekV2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "dense": dense_layers(0),
        "heads": whole("num_attention_heads", 32),
        **latent(),
        "d_ff": whole("intermediate_size", 11008),
        "experts": experts("n_routed_experts", 64),
        "choices": choices("num_experts_per_tok", 6),
        "shared": whole("n_shared_experts", 2),
        "expert_d_ff": whole("moe_intermediate_size", 1407),
        "groups": Setting(_groups, _write_groups),
        "kept_groups": Setting(_kept_groups, _write_kept_groups),
        "routed_scale": number("routed_scaling_factor", 1.0),
        "vocab": whole("vocab_size", 102400),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=2048, pairing="interleaved", width="rotary"),
        "gain": gain,
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "mlp_bias": flag("mlp_bias", False),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed={
        "norm_topk_prob": ((False,), "since the class never normalises the weights of those chosen"),
        "scoring_func": (("softmax",), "as in the class"),
        "moe_layer_freq": ((1,), "since all layers after the dense ones have experts"),
    },
    inert=(
        *ROUTER_TRAINING,
        *FOLLOWING,
        "aux_loss_alpha",
        "seq_aux",
        "ep_size",
        "pretraining_tp",
        "auto_map",  # the code of its own that this arch was written after
    ),
    quantised="fp8",
)
