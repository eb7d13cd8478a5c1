"""How a model is called: its inputs and options as parameters, as arguments and in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """A sequence of tokens as a model takes it: what its input is called, its dims, and its padding."""

    name: str
    dims: str
    padding: str


@dataclass(frozen=True)
class Input:
    """A tensor that a model is called with: its dtypes and dims, as Python, and whether it may be None."""

    name: str
    dtypes: str
    dims: str
    optional: bool

    def __str__(self) -> str:
        return f"{self.name}: Tensor{' | None' if self.optional else ''}"

    @property
    def sized(self) -> bool:
        """Whether the spec says a dim as a number."""
        return any(dim.strip(" ()").isdigit() for dim in self.dims.split(","))


@dataclass(frozen=True)
class Calling:
    """What a model is called with."""

    cached: bool  # whether tokens can come in pieces: new_cache
    sequences: tuple[Tokens, ...]  # the last is the one that grows
    inputs: tuple[Input, ...]  # all that a model is called with
    documents: bool  # whether several may share a row
    start: int | None  # the token that the last sequence begins with, where the spec says one
    experts: bool  # whether tokens choose experts

    @property
    def grows(self) -> str:
        """The name of the tokens that are added to a cache."""
        return self.sequences[-1].name

    @property
    def fixed_tokens(self) -> tuple[str, ...]:
        """The names of the tokens of sequences that do not grow, such as an encoder's."""
        return tuple(each.name for each in self.sequences[:-1])

    @property
    def given(self) -> tuple[Input, ...]:
        """What a model is called with besides options."""
        return self.inputs[: len(self.inputs) - len(self.sequences)]

    @property
    def kept(self) -> tuple[str, ...]:
        """The inputs that a cache takes in once: those that are not of the tokens added to it."""
        return tuple(each.name for each in self.given if each.optional)

    @property
    def prompt(self) -> tuple[str, ...]:
        """What `generate` goes on from: its tokens too, unless they begin with one of the spec."""
        return tuple(each.name for each in self.given if self.start is None or each.name != self.grows)

    @property
    def shape_letters(self) -> str:
        """What the letters in shapes stand for."""
        *fixed, grown = (each.dims.strip("[]").split(", ")[-1] for each in self.sequences)
        said = [f"{letter} {name}" for letter, name in zip(fixed, self.fixed_tokens, strict=True)]
        told = ", ".join(["B batch", *said, f"{grown} new {self.grows}, S {self.grows} so far"])
        return f"{told}, N choices of experts: B * {grown} * choices" if self.experts else told

    @property
    def given_signature(self) -> str:
        """What a model is called with, as parameters."""
        return ", ".join(map(str, self.given))

    @property
    def given_arguments(self) -> str:
        return ", ".join(each.name for each in self.given)

    @property
    def next_arguments(self) -> str:
        """What a model is called with for one `token` more."""
        named = {self.grows: "token", **dict.fromkeys(self.kept, "None")}
        return ", ".join(named.get(each.name, each.name) for each in self.given)

    @property
    def input_signature(self) -> str:
        return ", ".join(map(str, self.inputs))

    @property
    def input_arguments(self) -> str:
        return ", ".join(each.name for each in self.inputs)

    @property
    def sized_inputs(self) -> bool:
        return any(each.sized for each in self.inputs)

    @property
    def input_dtypes(self) -> frozenset[str]:
        return frozenset(each.dtypes for each in self.inputs)

    @property
    def grown(self) -> Input:
        """The tokens that are added to a cache."""
        return next(each for each in self.inputs if each.name == self.grows)

    @property
    def length_letter(self) -> str:
        """What stands for their number in shapes."""
        return self.sequences[-1].dims.strip("[]").split(", ")[-1]

    @property
    def options_signature(self) -> str:
        """What may be given besides what a model is called with."""
        return ", ".join(f"{name}: Tensor | None = None" for name in self._options)

    @property
    def options_arguments(self) -> str:
        """What is handed on besides what a model is called with."""
        return ", ".join(f"{name}={name}" for name in self._options)

    @property
    def padding_arguments(self) -> str:
        return ", ".join(f"{each.padding}={each.padding}" for each in self.sequences)

    @property
    def _options(self) -> list[str]:
        return [*(each.padding for each in self.sequences), *["documents"] * self.documents]

    @property
    def about_options(self) -> str:
        """What a model's options mean."""
        told = [f"{each.padding} is bool {each.dims}" for each in self.sequences]
        numbers = "the number of each token's document where several share a row"
        numbers = f"; documents is int64 {self.sequences[-1].dims}, {numbers}"
        cache = "; a cache is filled and read" if self.cached else ""
        if self.kept:
            cache += f", and {' and '.join(self.kept)} may be None once it has been"
        return f"{', '.join(told)}, False where a token is padding{numbers * self.documents}{cache}."
