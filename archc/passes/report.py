"""What the passes did: fusions fired and missed, with reasons, and what was relaxed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from archc.errors import Span

# What a pass may change of the numbers, by name.
RELAXATIONS = {
    "fewer_roundings": "the kernel stays in float32 where separate ops would round to the model's dtype",
    "reassociation": "sums are taken in another order, so other intermediate values are rounded",
}


@dataclass(frozen=True)
class Fired:
    """A fusion that was made.  `count` is how many layers of the model have it."""

    rule: str
    place: str
    count: int
    relaxations: tuple[str, ...]
    span: Span | None


@dataclass(frozen=True)
class Missed:
    """A fusion that looked possible but was not made."""

    rule: str
    place: str
    reason: str
    span: Span | None


@dataclass(frozen=True)
class Remark:
    """Anything else a pass did, or why it did not."""

    pass_name: str
    text: str


@dataclass
class Report:
    """Everything the passes have to tell."""

    fired: list[Fired] = field(default_factory=list)
    absorbed: list[Fired] = field(default_factory=list)  # those that became part of a larger one
    missed: list[Missed] = field(default_factory=list)  # those worth telling
    attempts: list[Missed] = field(default_factory=list)  # all that were tried, for `expect`
    remarks: list[Remark] = field(default_factory=list)

    def sort(self) -> None:
        """Put fusions in the order of the spec."""
        self.fired.sort(key=_line)
        self.missed.sort(key=_line)

    def absorb(self, rule: str, place: str, count: int) -> None:
        """Take a fusion as part of a larger one, which is told in its place."""
        for each in self.fired:
            if (each.rule, each.place, each.count) == (rule, place, count):
                self.fired.remove(each)
                self.absorbed.append(each)
                return

    def fusions(self) -> list[Fired]:
        """The fusions, those of one line once: layers that differ elsewhere may share it."""
        counts: dict[Fired, int] = {}
        for each in self.fired:
            alike = replace(each, count=0, span=None)
            counts[alike] = counts.get(alike, 0) + each.count
        return [replace(each, count=count) for each, count in counts.items()]

    def misses(self) -> list[Missed]:
        """What was missed, in the same way."""
        return list(dict.fromkeys(replace(each, span=None) for each in self.missed))

    def relaxations(self) -> dict[str, str]:
        """What fusions change of the numbers: name and meaning."""
        names = {name for each in (*self.fired, *self.absorbed) for name in each.relaxations}
        return {name: meaning for name, meaning in RELAXATIONS.items() if name in names}

    def remark(self, pass_name: str, text: str) -> None:
        remark = Remark(pass_name, text)
        if remark not in self.remarks:
            self.remarks.append(remark)


def _line(entry: Fired | Missed) -> tuple[str, int, int]:
    span = entry.span
    return (span.source.name, span.line, span.column) if span is not None else ("", 0, 0)
