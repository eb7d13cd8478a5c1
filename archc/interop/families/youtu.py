"""Youtu: attention by latents under dense MLPs."""

from archc.interop.family import Family, activation, flag, layers, number, whole
from archc.interop.latent import FOLLOWING, gain, latent
from archc.interop.rope import rotary

YOUTU = Family(
    model_type="youtu",
    spec="latent",
    arch="Latent",
    architectures=("YoutuForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2048),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 16),
        **latent(),
        "d_ff": whole("intermediate_size", 6144),
        "vocab": whole("vocab_size", 128256),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=131072, pairing="interleaved", width="rotary"),
        "gain": gain,
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed={
        "rope_interleave": ((True,), "since the arch's pairs are neighbours"),
        "mlp_bias": ((False,), "since the arch's MLPs have none"),
    },
    inert=(*FOLLOWING, "embedding_initializer_range", "auto_map"),
)
