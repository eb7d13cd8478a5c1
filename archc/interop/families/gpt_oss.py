"""gpt-oss: sinks, windows on every other layer, experts with a clamped gate."""

from archc.interop.family import Family, flag, key_value_heads, layers, number, whole
from archc.interop.rope import rotary, scaled
from archc.interop.routing import balance, choices, experts
from archc.interop.windows import every_other, windowed
from archc.ir.attributes import Width
from archc.ir.ops.scaling import Yarn

_YARN = Yarn(factor=32.0, original=Width(4096), truncate=False)

GPT_OSS = Family(
    model_type="gpt_oss",
    spec="gpt_oss",
    arch="GptOss",
    architectures=("GptOssForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2880),
        "layers": layers("num_hidden_layers", 36),
        "heads": whole("num_attention_heads", 64),
        "kv_heads": key_value_heads(8),
        "head_dim": whole("head_dim", 64),
        "d_ff": whole("intermediate_size", 2880),
        "experts": experts("num_local_experts", 128, "num_experts"),
        "choices": choices("num_experts_per_tok", 4),
        "vocab": whole("vocab_size", 201088),
        "eps": number("rms_norm_eps", 1e-5),
        "window": whole("sliding_window", 128),
        "windowed": windowed(every_other),
        "alpha": number("swiglu_alpha", 1.702),
        "limit": number("swiglu_limit", 7.0),
        "attention_bias": flag("attention_bias", True),
        "balance": balance(0.9),
        "tied": flag("tie_word_embeddings", False),
        "rope": scaled(rotary(theta=150000.0, context=131072), _YARN),
    },
    fixed={"hidden_act": (("silu",), "since the gate is clamped and takes its sigmoid")},
    inert=("router_jitter_noise", "experts_per_token", "initial_context_length"),
    quantised="mxfp4",
)
