"""Switch Transformers: T5's first version with experts in some layers of both stacks."""

from __future__ import annotations

from archc.interop.config import Config
from archc.interop.family import (
    MAX_LAYERS,
    Family,
    Known,
    Setting,
    Value,
    activation,
    flag,
    layers,
    number,
    token,
    whole,
)
from archc.interop.routing import experts, factor_or_none


def _read_decoder_layers(config: Config, known: Known) -> int:
    return config.whole("num_decoder_layers", 12, null=known["layers"], most=MAX_LAYERS)


def _sparse(stack: str, count: str) -> Setting:
    """For each layer of a stack whether it has experts.

    With `num_sparse_..._layers` of 0 the class still gives experts to the second layer, or to a single one.
    """
    key = f"num_sparse_{stack}_layers"

    def read(config: Config, known: Known) -> Value:
        total: int = known[count]
        sparse = config.whole(key, 3, least=0)
        step = total // sparse if sparse else total
        return tuple(step > 0 and (step == 1 or layer % step == 1) for layer in range(total))

    def write(value: tuple[bool, ...] | None, known: Known) -> dict[str, int]:
        return {key: sum(value) if value else int(known[count] // known["sparse_every"])}

    return Setting(read, write)


SWITCH_TRANSFORMERS = Family(
    model_type="switch_transformers",
    spec="switch",
    arch="Switch",
    architectures=("SwitchTransformersForConditionalGeneration",),
    parameters={
        "d": whole("d_model", 768),
        "d_ff": whole("d_ff", 2048),
        "layers": layers("num_layers", 12),
        "decoder_layers": Setting(
            _read_decoder_layers, lambda value, _known: {"num_decoder_layers": int(value)}
        ),
        "heads": whole("num_heads", 12),
        "head_dim": whole("d_kv", 64),
        "experts": experts("num_experts", 8),
        "capacity": whole("expert_capacity", 64),
        "encoder_sparse": _sparse("encoder", "layers"),
        "decoder_sparse": _sparse("decoder", "decoder_layers"),
        "router_bias": flag("router_bias", False),
        "noise": factor_or_none("router_jitter_noise", 0.01),
        "vocab": whole("vocab_size", 32128),
        "buckets": whole("relative_attention_num_buckets", 32),
        "distance": whole("relative_attention_max_distance", 128),
        "eps": number("layer_norm_epsilon", 1e-6),
        "act": activation("dense_act_fn", "relu"),
        "balance": factor_or_none("router_aux_loss_coef", 0.001),
        "calm": factor_or_none("router_z_loss_coef", 0.001),
        "start": token("decoder_start_token_id", 0),
    },
    fixed={
        "tie_word_embeddings": ((True,), "since the arch has one table for both stacks and the head"),
        "is_encoder_decoder": ((True,), "since the arch is an encoder and a decoder"),
        "router_dtype": (("float32",), "since the router of the arch computes in float32"),
    },
    inert=(
        "encoder_sparse_step",  # what follows from the numbers of sparse layers
        "decoder_sparse_step",
        "add_router_probs",
        "router_ignore_padding_tokens",  # which the class does not read
        "feed_forward_proj",  # of published configs; the class reads dense_act_fn
        "is_gated_act",
        "n_positions",
        "output_past",
        "output_router_logits",
        "router_type",
        "batch_prioritized_routing",
        "num_partitions",
        "initializer_factor",  # for training
        "dropout_rate",
        "classifier_dropout",
    ),
)
