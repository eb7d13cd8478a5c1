"""T5, its first version and v1.1, which the kind of MLP and the scale before the head tell apart."""

from archc.interop.config import Config
from archc.interop.family import (
    ACTIVATIONS,
    MAX_LAYERS,
    Family,
    Known,
    Setting,
    layers,
    number,
    token,
    whole,
)
from archc.ir.op import Op
from archc.ir.records import Symbol

# What `feed_forward_proj` may say: the activation, and whether another projection is multiplied with it.
_PROJECTIONS = {
    **{name: (ours, False) for name, ours in ACTIVATIONS.items()},
    **{f"gated-{name}": (ours, True) for name, ours in ACTIVATIONS.items()},
    "gated-gelu": ("gelu_tanh", True),  # which v1.1 has said all along
}


def _projection(config: Config) -> tuple[str, bool]:
    return _PROJECTIONS[config.choice("feed_forward_proj", "relu", _PROJECTIONS)]


def _write_projection(value: Op, known: Known) -> dict[str, str]:
    said = value.name, known["gated"]
    return {"feed_forward_proj": next(name for name, meant in _PROJECTIONS.items() if meant == said)}


def _read_decoder_layers(config: Config, known: Known) -> int:
    return config.whole("num_decoder_layers", known["layers"], null=known["layers"], most=MAX_LAYERS)


def _read_scaled(config: Config, _known: Known) -> bool:
    """Whether it is the first version, whose head is the embeddings' table and reads what is scaled down.

    transformers 5 writes `scale_decoder_outputs`, and of both versions that tables are tied.
    """
    older = config.flag("tie_word_embeddings", True)
    return config.flag("scale_decoder_outputs", older)


T5 = Family(
    model_type="t5",
    spec="t5",
    arch="T5",
    architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    parameters={
        "d": whole("d_model", 512),
        "d_ff": whole("d_ff", 2048),
        "layers": layers("num_layers", 6),
        "decoder_layers": Setting(
            _read_decoder_layers, lambda value, _known: {"num_decoder_layers": int(value)}
        ),
        "heads": whole("num_heads", 8),
        "head_dim": whole("d_kv", 64),
        "vocab": whole("vocab_size", 32128),
        "buckets": whole("relative_attention_num_buckets", 32),
        "distance": whole("relative_attention_max_distance", 128),
        "eps": number("layer_norm_epsilon", 1e-6),
        "act": Setting(lambda config, _known: Symbol(_projection(config)[0]), _write_projection),
        "gated": Setting(lambda config, _known: _projection(config)[1], lambda _value, _known: {}),
        "scaled": Setting(_read_scaled, lambda value, _known: {"tie_word_embeddings": value}),
        # A head that no checkpoint has is the embeddings' table in either version, as for transformers.
        "tied": lambda config, known: known["scaled"] or config.lacks_tensor("lm_head.weight"),
        "start": token("decoder_start_token_id", 0),
    },
    fixed={"is_encoder_decoder": ((True,), "since the arch is an encoder and a decoder")},
    inert=(
        "dense_act_fn",  # what follows from feed_forward_proj
        "is_gated_act",
        "n_positions",
        "output_past",
        "initializer_factor",  # for training
        "dropout_rate",
        "classifier_dropout",
    ),
)
