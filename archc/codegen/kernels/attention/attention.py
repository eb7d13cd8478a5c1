"""A fused attention as the planners of its kernels read it."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.fused import Fused, width_of
from archc.ir.attention_form import AttentionForm
from archc.ir.op import Trait

_ALWAYS = ("k", "v", "positions", "key_positions")  # operands of every attention, besides its queries


@dataclass(frozen=True)
class Attention:
    """What all kernels of an attention have in common.

    form:      which operands its queries are, and whether values are columns of the keys
    head_dim:  columns of a query and of a key
    value_dim: columns of a value
    scale:     what products of queries and keys are multiplied by
    softcap:   c of the scores' c * tanh(score / c), None where they have no cap
    """

    name: str
    form: AttentionForm
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    softcap: float | None

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.heads // self.kv_heads


def attention_of(fused: Fused) -> Attention:
    """The attention of a fused node."""
    form, attributes = form_of(fused), fused.node.attributes
    _, _, kv_heads, head_dim = fused.types["k"].shape
    softcap = attributes.get("softcap")
    return Attention(
        name=fused.name,
        form=form,
        heads=int(fused.types[form.queries[0]].shape[2]),
        kv_heads=int(kv_heads),
        head_dim=int(head_dim),
        value_dim=width_of(fused.node.types[0]),
        scale=float(attributes["scale"]),
        softcap=None if softcap is None else float(softcap),
    )


def form_of(fused: Fused) -> AttentionForm:
    """The form of a fused node that is an attention."""
    form = fused.rule.attention_form
    assert form is not None
    return form


def further_operands(fused: Fused) -> tuple[str, ...]:
    """Operands besides queries, keys, values and positions."""
    return tuple(name for name in fused.types if name not in (*form_of(fused).queries, *_ALWAYS))


def makes_bias(fused: Fused) -> bool:
    """Whether the fusion makes a bias of positions."""
    return any(step.op.has(Trait.PAIRWISE) for step in fused.rule.steps)


def choosers_of(fused: Fused) -> int:
    """How many choices of keys a query has, each for as many heads; 0 where it sees what the mask lets it."""
    return int(fused.types["among"].shape[2]) if heads_choose(fused) else int("among" in fused.types)


def heads_choose(fused: Fused) -> bool:
    """Whether some heads see other keys than others, of their own choice."""
    return "among" in fused.types and len(fused.types["among"].shape) > 3


def is_bare(fused: Fused) -> bool:
    """Whether keys and values are apart, and nothing else is read or made."""
    apart = not form_of(fused).one_slot
    return apart and not further_operands(fused) and not makes_bias(fused)
