"""GPT-2, whose config has names of its own for sizes."""

from archc.interop.config import Config
from archc.interop.family import Family, Known, Setting, activation, flag, layers, number, whole


def _inner(config: Config, known: Known) -> int:
    """The MLP's width: 4 times the model's unless the key says otherwise."""
    return config.whole("n_inner", 4 * known["d"], null=4 * known["d"])


GPT2 = Family(
    model_type="gpt2",
    spec="gpt2",
    arch="GPT2",
    architectures=("GPT2LMHeadModel",),
    parameters={
        "d": whole("n_embd", 768),
        "layers": layers("n_layer", 12),
        "heads": whole("n_head", 12),
        "d_ff": Setting(_inner, lambda value, _known: {"n_inner": int(value)}),
        "vocab": whole("vocab_size", 50257),
        "context": whole("n_positions", 1024),
        "eps": number("layer_norm_epsilon", 1e-5),
        "act": activation("activation_function", "gelu_new"),
        "scaled": flag("scale_attn_weights", True),
        "scaled_by_layer": flag("scale_attn_by_inverse_layer_idx", False),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed={"reorder_and_upcast_attn": ((False,), "since attention rounds in one place only")},
    inert=(
        "n_ctx",  # an older name of n_positions that transformers does not read
        "resid_pdrop",  # dropout, for training
        "embd_pdrop",
        "attn_pdrop",
        "summary_type",  # the head of another model class
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
    ),
)
