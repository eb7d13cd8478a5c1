"""EXAONE 4: norms after attention and MLP; where some layers have a window, these alone rotate."""

from archc.interop.config import Config
from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.windows import by_period, listed_windows, window


def _usual(layer: int, config: Config) -> bool:
    """Whether a layer has a window by the period, which some files spell in letters beside their list."""
    period = config.get("sliding_window_pattern", 4)
    if isinstance(period, str) and config.get("layer_types") is not None:
        return False
    return by_period(layer, config)


EXAONE4 = Family(
    model_type="exaone4",
    spec="exaone4",
    arch="Exaone4",
    architectures=("Exaone4ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(32),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 16384),
        "vocab": whole("vocab_size", 102400),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=10000.0, context=2048),
        "window": window(4096),
        # Of a model with a window none of whose layers has it, none rotates.
        "windowed": listed_windows(4096, _usual)["windowed"],
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
)
