"""What generated functions are written with: statements and arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A statement of generated code, with its comment; without a statement, the comment has its own line."""

    code: str
    comment: str = ""

    def __str__(self) -> str:
        if not self.code:
            return f"# {self.comment}" if self.comment else ""
        return f"{self.code}  # {self.comment}" if self.comment else self.code

    def indented(self) -> Line:
        """The line, one level further in."""
        text = self.code or (f"# {self.comment}" if self.comment else "")
        return Line(f"    {text}", self.comment if self.code else "") if text else self


@dataclass(frozen=True)
class Argument:
    """An argument of a generated function."""

    name: str
    annotation: str = "Tensor"

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation}" if self.annotation else self.name
