"""The form of attention fusions: one `attend`, and the ops that make its operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.ir.decomposition import OperandRef, Step, StepRef
from archc.ir.op import Trait


@dataclass(frozen=True)
class AttentionForm:
    """`queries` are operands, side by side.

    values_in_keys:  values are the first columns of the keys
    keys_are_values: they are all of them
    """

    queries: tuple[str, ...]
    values_in_keys: bool
    keys_are_values: bool

    @property
    def one_slot(self) -> bool:
        """Whether keys and values are kept as one."""
        return self.values_in_keys or self.keys_are_values


def attention_form(steps: Sequence[Step]) -> AttentionForm | None:
    """The form of a decomposition: attention of operands called as the op calls them, None for another.

    Biases may be made on the way, values be taken from the keys, and queries then lie apart likewise.
    """
    *before, last = steps
    queries, _, values, *_ = last.inputs
    joined = [step.inputs for number, step in enumerate(before) if queries == StepRef(number)]
    taken = [step for number, step in enumerate(before) if values == StepRef(number)]
    form = AttentionForm(
        tuple(ref.name for ref in (*joined, (queries,))[0] if isinstance(ref, OperandRef)),
        bool(taken),
        values == OperandRef("k"),
    )
    names = zip(last.op.operands, last.inputs, strict=True)
    made = all(step.op.has(Trait.PAIRWISE) or _is_part(step) for step in before)
    called = all(
        not isinstance(ref, OperandRef)
        or ref.name == operand.name
        or (operand.name == "v" and ref.name == "k")
        for operand, ref in names
    )
    apart = len(form.queries) == (2 if taken else 1) and len(joined) == len(taken)
    return form if made and called and apart else None


def _is_part(step: Step) -> bool:
    """Whether a step joins two operands, or takes the keys apart."""
    if step.op.name == "concat":
        return len(step.inputs) == 2 and all(isinstance(ref, OperandRef) for ref in step.inputs)
    return step.op.name == "split" and step.inputs == (OperandRef("k"),)
