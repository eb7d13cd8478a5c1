"""What the passes did: fusions fired and missed, with reasons, and what was relaxed."""

from __future__ import annotations

from dataclasses import dataclass, field

from archc.errors import Span

# What a pass may change of the numbers, by name.
RELAXATIONS = {
    "fewer_roundings": "the kernel stays in float32 where the ops one by one round to the model's dtype",
    "reassociation": "sums are taken in another order, and what is rounded is what lies between them",
}


@dataclass(frozen=True)
class Fired:
    """A fusion that was made.  `count` is how many layers of the model run it."""

    rule: str
    place: str
    count: int
    relaxations: tuple[str, ...] = ()
    span: Span | None = None


@dataclass(frozen=True)
class Missed:
    """A fusion that looked possible but was not made."""

    rule: str
    place: str
    reason: str
    span: Span | None = None


@dataclass(frozen=True)
class Remark:
    """Anything else a pass did, or why it did not."""

    pass_name: str
    text: str


@dataclass
class Report:
    """Everything the passes have to tell."""

    fired: list[Fired] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)  # those worth telling
    attempts: list[Missed] = field(default_factory=list)  # all, for who asks after one
    remarks: list[Remark] = field(default_factory=list)

    def sort(self) -> None:
        """Put fusions in the order of the spec."""
        self.fired.sort(key=_line)
        self.missed.sort(key=_line)

    def remark(self, pass_name: str, text: str) -> None:
        remark = Remark(pass_name, text)
        if remark not in self.remarks:
            self.remarks.append(remark)


def _line(entry: Fired | Missed) -> tuple[str, int, int]:
    span = entry.span
    return (span.source.name, span.line, span.column) if span is not None else ("", 0, 0)
