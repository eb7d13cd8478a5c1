"""BLOOM, whose config has two names for each size."""

from archc.interop.family import MAX_LAYERS, Family, either, flag, number, whole

BLOOM = Family(
    model_type="bloom",
    spec="bloom",
    arch="Bloom",
    architectures=("BloomForCausalLM",),
    parameters={
        "d": either("hidden_size", "n_embed", 64),
        "layers": either("n_layer", "num_hidden_layers", 2, MAX_LAYERS),
        "heads": either("n_head", "num_attention_heads", 8),
        "vocab": whole("vocab_size", 250880),
        "eps": number("layer_norm_epsilon", 1e-5),
        "residual_normed": flag("apply_residual_connection_post_layernorm", False),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed={
        "slow_but_exact": ((False,), "since a product is taken whole"),
        "n_inner": ((None,), "since the MLP is four times as wide as the model"),
    },
    inert=(
        "hidden_dropout",  # for training
        "pretraining_tp",  # how many devices it was trained on
        "seq_length",  # of training: there is no table of positions
        "unk_token_id",
        # How another library ran the model.
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
    ),
)
