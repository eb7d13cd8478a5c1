"""InternLM 3 and IQuest-Coder: Llama's class with other defaults, once with code of its own."""

from dataclasses import replace

from archc.interop.families.llama import LLAMA
from archc.interop.family import key_value_heads, layers, number, whole
from archc.interop.rope import rotary

_INERT = (*LLAMA.inert, "auto_map")  # the code of its own that Llama's class has replaced
_LATER = {"head_dim": whole("head_dim", 128), "eps": number("rms_norm_eps", 1e-5)}

INTERNLM3 = replace(
    LLAMA,
    model_type="internlm3",
    architectures=("InternLM3ForCausalLM", "LlamaForCausalLM"),
    parameters={
        **LLAMA.parameters,
        **_LATER,
        "layers": layers("num_hidden_layers", 48),
        "kv_heads": key_value_heads(2),
        "d_ff": whole("intermediate_size", 10240),
        "vocab": whole("vocab_size", 128512),
        "rope": rotary(theta=10000.0, context=32768),
    },
    fixed={
        **LLAMA.fixed,
        **dict.fromkeys(("bias", "qkv_bias"), ((False,), "since no published model has biases")),
    },
    inert=_INERT,
)
IQUESTCODER = replace(
    LLAMA,
    model_type="iquestcoder",
    architectures=("IQuestCoderForCausalLM", "LlamaForCausalLM"),
    parameters={
        **LLAMA.parameters,
        **_LATER,
        "d": whole("hidden_size", 5120),
        "layers": layers("num_hidden_layers", 80),
        "heads": whole("num_attention_heads", 40),
        "kv_heads": key_value_heads(8),
        "d_ff": whole("intermediate_size", 27648),
        "vocab": whole("vocab_size", 76800),
        "rope": rotary(theta=10000.0, context=131072),
    },
    fixed={
        **LLAMA.fixed,
        "clip_qkv": ((None,), "since queries, keys and values are not clipped"),
        "use_sliding_window": ((False, None), "since all layers see all keys"),
    },
    inert=(*_INERT, "sliding_window", "max_window_layers"),
)
