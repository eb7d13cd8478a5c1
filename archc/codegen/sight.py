"""What a package's attention needs from its runtime: which keys a query sees, and pieces of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.kernel_plan import Kernel


@dataclass(frozen=True)
class Sight:
    """Which kinds of attention a package has.

    causal, full:    whether some see keys up to the query's own, or all keys
    windows, chunks: whether some see only the last keys, or those of a chunk
    masked, spelled: whether some use PyTorch's attention, with a mask, or are written op by op
    """

    causal: bool
    full: bool
    windows: bool
    chunks: bool
    masked: bool
    spelled: bool

    @property
    def in_pieces(self) -> bool:
        """Whether queries may be taken some at a time: not where PyTorch's own is over all keys."""
        return self.spelled or (self.masked and self.causal)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that say what a query sees: those by which attention differs."""
        differs = {"causal": self.causal and self.full, "window": self.windows, "chunk": self.chunks}
        return tuple(name for name, asked in differs.items() if asked)

    @property
    def options(self) -> tuple[str, ...]:
        """Their declarations, with what is usual."""
        return tuple(f"{name}: {kind} = {usual}" for name, (kind, usual) in self._kinds().items())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Their declarations without."""
        return tuple(f"{name}: {kind}" for name, (kind, _) in self._kinds().items())

    def _kinds(self) -> dict[str, tuple[str, str]]:
        return {name: ("bool", "True") if name == "causal" else ("int | None", "None") for name in self.names}

    @property
    def whole(self) -> bool:
        """Whether it has to be said that attention does not take all at once."""
        return self.masked and self.spelled

    @property
    def reach_names(self) -> tuple[str, ...]:
        """Those that say how many keys it sees at most."""
        return tuple(name for name in self.names if name != "causal")

    @property
    def reach(self) -> str:
        """That number, as an expression; "" where there is no limit."""
        return " or ".join(self.reach_names)

    @property
    def about(self) -> str:
        """Which keys a query sees, in words."""
        if not self.causal:
            return "All keys"
        limits = [text for asked, text in self._limits() if asked]
        told = "Keys up to the query's own" + (f", of them {' or '.join(limits)}" if limits else "")
        return f"{told}; all where not `causal`" if self.full else told

    @property
    def about_pieces(self) -> str:
        """What pieces are good for, and when there is one, in words."""
        window = ", and a window costs no more than its keys" if self.reach else ""
        when = "where that needs no mask, " if self.masked else ""
        when += "if `whole` allows it, " if self.whole else ""
        when += "and under a compiler" if self.masked else "under a compiler"
        return (
            f"Memory then grows with the tokens, not with their square{window}.  "
            f"There is one piece {when}, which knows no lengths."
        )

    def _limits(self) -> tuple[tuple[bool, str], ...]:
        return (self.windows, "the last `window`"), (self.chunks, "those of its `chunk`")

    def asked(self, mask: Sequence[str]) -> str:
        """The arguments that tell a mask, without what is so for all."""
        return ", ".join(each for each in mask if each.partition("=")[0] in self.names)

    def asked_pieces(self, kernel: AttentionKernel) -> str:
        """The same for pieces."""
        whole = "whole=False" if self.whole and kernel.plain else ""
        return ", ".join(filter(None, (self.asked(kernel.mask), whole)))


def sight_of(kernels: Sequence[Kernel]) -> Sight:
    """What some kernels ask for."""
    found = [kernel for kernel in kernels if isinstance(kernel, AttentionKernel)]
    told = {each.partition("=")[0] for kernel in found for each in kernel.mask}
    return Sight(
        causal=any("causal=False" not in kernel.mask for kernel in found),
        full=any("causal=False" in kernel.mask for kernel in found),
        windows="window" in told,
        chunks="chunk" in told,
        masked=any(not kernel.plain for kernel in found),
        spelled=any(kernel.plain for kernel in found),
    )
