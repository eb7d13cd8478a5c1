"""Everything a template may see: plain data, prepared in Python."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A statement of generated code, with its comment; an empty statement is a comment of its own."""

    code: str
    comment: str = ""

    def __str__(self) -> str:
        if not self.code:
            return f"# {self.comment}" if self.comment else ""
        return f"{self.code}  # {self.comment}" if self.comment else self.code


@dataclass(frozen=True)
class Stored:
    """One tensor of the checkpoint in a parameter: its name as a string or f-string, and its rows."""

    name: str
    rows: str
    transposed: bool

    def __str__(self) -> str:
        return f"Stored({self.name}, {self.rows}{', transposed=True' if self.transposed else ''})"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a generated class."""

    name: str
    shape: str
    start: str  # how it is initialised: a function of torch.nn.init, with `{}` for the parameter
    stored: tuple[Stored, ...]
    comment: str


@dataclass(frozen=True)
class Layers:
    """A loop: a list of modules."""

    name: str
    modules: str  # a generator expression that builds them


@dataclass(frozen=True)
class Argument:
    name: str
    annotation: str = "Tensor"

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation}" if self.annotation else self.name


@dataclass(frozen=True)
class Class:
    """A generated module: the model itself, or one of its different layers."""

    name: str
    doc: tuple[str, ...]
    indices: tuple[str, ...]  # loop variables that the names of its parameters follow
    parameters: tuple[Parameter, ...]
    layers: tuple[Layers, ...]
    state: tuple[tuple[str, str], ...]  # what it keeps of each token: slot, shape
    arguments: tuple[Argument, ...]
    lines: tuple[Line, ...]
    result: str
    result_type: str

    @property
    def is_model(self) -> bool:
        """Whether it is the model itself: its `forward` takes options."""
        return any(argument.name == "*" for argument in self.arguments)

    @property
    def constructor(self) -> str:
        if self.is_model:
            return "dtype: torch.dtype | None = None, device: Any = None"
        return ", ".join([*(f"{name}: int" for name in self.indices), "**factory: Any"])

    @property
    def signature(self) -> str:
        return ", ".join(map(str, self.arguments))

    @property
    def state_dict(self) -> str:
        return "{" + ", ".join(f'"{slot}": {shape}' for slot, shape in self.state) + "}"

    @property
    def starts(self) -> dict[str, tuple[str, ...]]:
        """Parameters by how they are initialised."""
        groups: dict[str, tuple[str, ...]] = {}
        for parameter in self.parameters:
            groups[parameter.start] = (*groups.get(parameter.start, ()), f"self.{parameter.name}")
        return groups


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel's op takes.

    Dims are numbers, or names such as "B" and "T".  `dtype` is "float", the model's own, or "f32".
    An optional operand may be None.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    optional: bool


@dataclass(frozen=True)
class CustomOp:
    """How a kernel's op is registered with PyTorch: forward, gradient, and what passes between them.

    Every tuple of strings holds names or expressions in the order of the signature.
    """

    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]
    fakes: tuple[str, ...]  # empty tensors like the outputs
    saved: tuple[str, ...]  # kept for the gradient
    incoming: tuple[Argument, ...]  # what the gradient op takes: gradients of outputs, then what was saved
    gradients: tuple[str, ...]
    gradient_fakes: tuple[str, ...]
    returned: tuple[str, ...]  # the gradient of each parameter
    remembered: tuple[str, ...]  # further statements of the set-up
    anchor: str  # the parameter whose device and dtype decide
    plain: tuple[Line, ...]  # the op in plain PyTorch

    @property
    def parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(o.name, "Tensor | None" if o.optional else "Tensor") for o in self.operands)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(operand.name for operand in self.operands)

    @property
    def incoming_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.incoming)

    @property
    def output_gradients(self) -> tuple[str, ...]:
        return tuple(f"d{name}" for name in self.outputs)

    @property
    def saves_output(self) -> bool:
        return any(name in self.outputs for name in self.saved)

    @property
    def result_type(self) -> str:
        return _tensors(len(self.outputs))

    @property
    def gradient_type(self) -> str:
        return _tensors(len(self.gradients))


def _tensors(count: int) -> str:
    return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"


@dataclass(frozen=True)
class NormKernel:
    """A row of sums and one norm."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    warps: int
    sums: bool
    total: str  # what the norm reads
    result: str
    weight: bool
    weights: tuple[str, ...]
    sum_lines: tuple[str, ...]
    norm_lines: tuple[str, ...]
    result_lines: tuple[str, ...]
    gradient_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    template: str = "norm"

    @property
    def masked(self) -> bool:
        return self.block != self.width

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""


@dataclass(frozen=True)
class Heads:
    """Heads that a rope kernel reads: `offset` into a token's values, rotated or only copied."""

    name: str
    source: str
    source_width: int
    offset: int
    heads: int
    block: int
    width: int  # of all heads together
    weight: str  # the norm's weight, or ""
    mask: str  # which pairs there are, or "" for all
    rest_mask: str
    copy_mask: str

    @property
    def offset_term(self) -> str:
        return f"{self.offset} + " if self.offset else ""

    @property
    def load(self) -> str:
        return _load(self.mask)

    @property
    def store(self) -> str:
        return _store(self.mask)

    @property
    def rest_load(self) -> str:
        return _load(self.rest_mask)

    @property
    def rest_store(self) -> str:
        return _store(self.rest_mask)

    @property
    def copy_load(self) -> str:
        return _load(self.copy_mask)

    @property
    def copy_store(self) -> str:
        return _store(self.copy_mask)


def _load(mask: str) -> str:
    return f", mask={mask}, other=0.0" if mask else ""


def _store(mask: str) -> str:
    return f", mask={mask}" if mask else ""


@dataclass(frozen=True)
class RopeKernel:
    """Rotation of queries and keys, their norms before it, values along with them."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    sources: tuple[tuple[str, int], ...]  # inputs and the width of a token in each
    source_shapes: dict[str, str]  # their dims behind [B, T]
    rotated: tuple[Heads, ...]
    copied: tuple[Heads, ...]
    head_dim: int
    head_block: int
    pairs: int
    pair_block: int
    rest: int
    rest_block: int
    interleaved: bool
    eps: float
    shift: str  # "1.0 + " where the norm's weight has an offset
    warps: int
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    template: str

    @property
    def heads(self) -> tuple[Heads, ...]:
        return (*self.rotated, *self.copied)

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(part.weight for part in self.rotated if part.weight)

    @property
    def first(self) -> str:
        """Where the first value of each pair lies in a head."""
        return "2 * pair" if self.interleaved else "pair"

    @property
    def second(self) -> str:
        return "2 * pair + 1" if self.interleaved else f"{self.pairs} + pair"

    @property
    def pair_mask(self) -> str:
        return f"pair < {self.pairs}" if self.pair_block != self.pairs else ""

    @property
    def pair_load(self) -> str:
        return _load(self.pair_mask)

    @property
    def pair_store(self) -> str:
        return _store(self.pair_mask)


@dataclass(frozen=True)
class PointwiseKernel:
    """An elementwise function of rows."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    warps: int
    helpers: tuple[str, ...]
    load_lines: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    store_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    gradient_tensors: tuple[tuple[str, str], ...]  # what the backward kernel writes, and how it is made
    vector_gradients: tuple[tuple[str, str], ...]  # gradients of vectors, summed over rows
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    template: str = "pointwise"

    @property
    def columns(self) -> int:
        """Programs that share a row."""
        return -(-self.width // self.block)

    @property
    def masked(self) -> bool:
        return self.width % self.block != 0

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""


@dataclass(frozen=True)
class AttentionKernel:
    """PyTorch's own scaled-dot-product attention."""

    name: str
    equation: tuple[str, ...]
    layout: str
    scale: float
    grouped: bool
    template: str = "attention"


Kernel = NormKernel | RopeKernel | PointwiseKernel | AttentionKernel


@dataclass(frozen=True)
class Constant:
    name: str
    value: str


@dataclass(frozen=True)
class Module:
    """model.py or reference.py: `classes` end with the model itself."""

    title: str
    imports: tuple[str, ...]
    constants: tuple[Constant, ...]
    helpers: tuple[str, ...]
    classes: tuple[Class, ...]


@dataclass(frozen=True)
class Package:
    """A generated package."""

    name: str
    generates: bool  # whether it is a language model with a cache: loss, new_cache, generate
    loss: bool  # whether its output is logits over the tokens' vocabulary
    vocabulary: int
    windows: bool  # whether some attention sees a window only
    ignored: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]  # (name a checkpoint may repeat, the name it is tied to)
    model: Module
    reference: Module
    kernels: tuple[Kernel, ...]

    @property
    def ignored_items(self) -> str:
        items = [json.dumps(pattern) for pattern in self.ignored]
        return f"{items[0]}," if len(items) == 1 else ", ".join(items)

    @property
    def tied_dict(self) -> str:
        return "{" + ", ".join(f"{alias}: {target}" for alias, target in self.tied) + "}"


@dataclass(frozen=True)
class ReportPlan:
    """REPORT.md: facts as label and value, then what was fused."""

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    fired: tuple[tuple[str, str, int, str], ...]  # rule, place, times, relaxations
    missed: tuple[tuple[str, str, str], ...]  # rule, place, reason
    remarks: tuple[tuple[str, str], ...]  # pass, text
