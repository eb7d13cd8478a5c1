"""SmolLM 3: layers without rotary positions, by a period or a list."""

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    activation,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.windows import used_windows, write_rotated


def _rotates(config: Config, known: Known) -> tuple[bool, ...]:
    """For each layer whether it rotates: 1 or 0 in `no_rope_layers`, whose name says the opposite."""
    usual = tuple((layer + 1) % known["nope_every"] != 0 for layer in range(known["layers"]))
    listed = config.items(
        "no_rope_layers", len(usual), (0, 1).__contains__, "1 (rotary positions) or 0 (none)"
    )
    return usual if listed is None else tuple(each == 1 for each in listed)


def _rotated(config: Config, known: Known) -> tuple[bool, ...] | None:
    """The layers that rotate, None where they follow the period."""
    rotates, every = _rotates(config, known), known["nope_every"]
    follows = all(each is ((layer + 1) % every != 0) for layer, each in enumerate(rotates))
    return None if follows else rotates


def _unrotated(config: Config, known: Known) -> list[bool]:
    """Layers without rotary positions are those with a window, where one is in use."""
    return [not each for each in _rotates(config, known)]


SMOLLM3 = Family(
    model_type="smollm3",
    spec="smollm3",
    arch="SmolLM3",
    architectures=("SmolLM3ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 36),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(4),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 11008),
        "vocab": whole("vocab_size", 128256),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=2000000.0, context=32768),
        "nope_every": whole("no_rope_layer_interval", 4),
        "rotated": Setting(_rotated, write_rotated),
        **used_windows(None, _unrotated),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "mlp_bias": flag("mlp_bias", False),
        "tied": flag("tie_word_embeddings", True),
    },
    inert=("max_window_layers", "pretraining_tp"),  # of the families it came from; its class reads neither
)
