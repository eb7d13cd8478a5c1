"""StarCoder 2: layer norms, biases on all projections or on none, a plain MLP."""

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.windows import window

STARCODER2 = Family(
    model_type="starcoder2",
    spec="starcoder2",
    arch="Starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 3072),
        "layers": layers("num_hidden_layers", 30),
        "heads": whole("num_attention_heads", 24),
        "kv_heads": key_value_heads(2),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 12288),
        "vocab": whole("vocab_size", 49152),
        "eps": number("norm_epsilon", 1e-5),
        "rope": rotary(theta=10000.0, context=4096),
        "window": window(None),
        "act": activation("hidden_act", "gelu_pytorch_tanh"),
        "bias": flag("use_bias", True),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed={
        "norm_type": (("layer_norm",), "as in the class"),
        "mlp_type": (("default",), "as in the class"),
    },
    inert=("residual_dropout", "embedding_dropout"),  # for training
)
