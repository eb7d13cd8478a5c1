"""Marian: the Transformer of 2017 as its translation models have it, with biases everywhere."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    MAX_LAYERS,
    Family,
    Known,
    Setting,
    activation,
    constant,
    flag,
    layers,
    token,
    whole,
)
from archc.ir.records import Symbol


def _read_layers(config: Config, _known: Known) -> int:
    """The encoder's layers, which the class knows by two names."""
    found = config.whole("encoder_layers", 12, most=MAX_LAYERS)
    if config.get("num_hidden_layers", found) != found:
        config.complain("num_hidden_layers", f"must be encoder_layers, which is {found}")
    return found


def _read_vocabulary(config: Config, _known: Known) -> int:
    """One vocabulary for both stacks."""
    found = config.whole("vocab_size", 58101)
    if config.get("decoder_vocab_size") not in (None, found):
        config.complain(
            "decoder_vocab_size", f"must be vocab_size, which is {found}, since tables are shared"
        )
    return found


def _write(key: str) -> Any:
    return lambda value, _known: {key: int(value)}


MARIAN = Family(
    model_type="marian",
    spec="transformer",
    arch="Transformer",
    architectures=("MarianMTModel",),
    parameters={
        "d": whole("d_model", 1024),
        "layers": Setting(_read_layers, _write("encoder_layers")),
        "decoder_layers": layers("decoder_layers", 12),
        "heads": whole("encoder_attention_heads", 16),
        "decoder_heads": whole("decoder_attention_heads", 16),
        "d_ff": whole("encoder_ffn_dim", 4096),
        "decoder_d_ff": whole("decoder_ffn_dim", 4096),
        "vocab": Setting(_read_vocabulary, _write("vocab_size")),
        "eps": constant(1e-5),
        "act": activation("activation_function", "gelu"),
        "layout": constant(Symbol("halves")),
        "scaled": flag("scale_embedding", False),
        "attention_bias": constant(True),
        "logits_bias": constant(True),
        "start": token("decoder_start_token_id", 58100),
    },
    fixed={
        "is_encoder_decoder": ((True,), "since the arch is an encoder and a decoder"),
        "share_encoder_decoder_embeddings": ((True,), "since both stacks have one table"),
        "tie_word_embeddings": ((True,), "since the head has the embeddings' table"),
        "static_position_embeddings": ((True,), "since positions are sinusoids"),
        "normalize_before": ((False,), "since norms follow sums"),
        "normalize_embedding": ((False,), "since nothing normalises embeddings"),
        "add_final_layer_norm": ((False,), "since a stack ends in its last layer's norm"),
    },
    inert=(
        "max_position_embeddings",  # rows of a table of sinusoids
        "extra_pos_embeddings",
        "add_bias_logits",  # there is a bias whatever it says
        "init_std",
        "dropout",  # for training
        "activation_dropout",
        "classifier_dropout",
        "classif_dropout",
        "encoder_layerdrop",
        "decoder_layerdrop",
    ),
)
