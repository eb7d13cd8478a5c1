"""What a template may see of a generated module: plain data, prepared in Python."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.code import Argument, Line
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.native.native_plan import NativeLayer, NativeLayers


@dataclass(frozen=True)
class Stored:
    """One tensor of the checkpoint in a parameter: its name as a string or f-string, and its rows.

    `stacked`: it holds those rows for several experts; `joined`: along which dim, if they have none of their
    own.  `heads`: how many heads its rows lie by, where the parameter holds them by the `parts` of a head.
    `expert`: whose they are.
    """

    name: str
    rows: str
    transposed: bool
    stacked: bool = False
    joined: int | None = None
    heads: str = ""
    parts: tuple[str, ...] = ()
    expert: str = ""

    def __str__(self) -> str:
        flags = [f"{flag}=True" for flag in ("transposed", "stacked") if getattr(self, flag)]
        dim = [] if self.joined is None else [f"joined={self.joined}"]
        order = [f"heads={self.heads}", f"parts=({', '.join(self.parts)})"] if self.heads else []
        place = [f"expert={self.expert}"] if self.expert else []
        return f"Stored({', '.join([self.name, self.rows, *flags, *dim, *order, *place])})"


@dataclass(frozen=True)
class PerExpert:
    """Each expert has tensors of its own: their names depend on a variable that counts experts."""

    variable: str
    count: str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a generated class."""

    name: str
    shape: str
    start: str  # how it is initialised: a function of torch.nn.init, with `{}` for the parameter
    stored: tuple[Stored, ...]
    comment: str
    trained: bool
    per_expert: PerExpert | None = None  # when every expert has tensors of its own
    wide: bool = False  # kept in float32, whatever the model's dtype
    shared: tuple[Stored, ...] = ()  # the tensors of experts that every token goes through
    whole: bool = False  # of whole numbers


@dataclass(frozen=True)
class Layers:
    """A loop: a list of modules."""

    name: str
    modules: str  # a generator expression that builds them


@dataclass(frozen=True)
class Head:
    """The model's last linear map, and the statements of what follows it, if anything does.

    hidden:  what the linear map reads
    result:  the text of the logits after the tail
    place:   of logits among the model's results
    results: the texts of these, if there are others, of `before`, which has what is hidden in their place
    """

    hidden: str
    hidden_shape: str
    logits_shape: str
    weight: str
    bias: str  # or ""
    linear: str  # the function of the linear map
    loss: LossKernel
    tail: tuple[Line, ...]
    result: str
    place: int
    results: tuple[str, ...]

    @property
    def operands(self) -> str:
        """What the linear map takes."""
        return ", ".join([self.hidden, self.weight, *([self.bias] if self.bias else [])])


@dataclass(frozen=True)
class Method:
    """A method that computes a graph."""

    arguments: tuple[Argument, ...]
    lines: tuple[Line, ...]
    result: str
    result_type: str

    @property
    def signature(self) -> str:
        return ", ".join(map(str, self.arguments))


@dataclass(frozen=True)
class Fixed(Method):
    """The method that computes what stays the same in every call, and is kept by a cache."""

    shapes: str


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
    base: Class | None = None  # one before it that has its parameters, and so is its base class
    head: Head | None = None  # of a language model, when `lines` end at what the head reads
    fixed: Fixed | None = None  # where it reads what does not follow from the tokens that are added
    following: Method | None = None  # where a model says what comes with the tokens that it writes
    native: NativeLayer | None = None  # a layer whose ops all have native code
    native_inputs: str = ""  # the layer's tensors that this code reads
    native_call: str = ""  # the call of this code for the layer alone
    stack: NativeLayers | None = None  # the native code of a loop, after the last of its layers' classes

    @property
    def is_model(self) -> bool:
        """Whether it is the model itself: its `forward` takes options."""
        return any(argument.name == "*" for argument in self.arguments)

    def extends(self, other: Class) -> bool:
        """Whether it can be a subclass of another layer: only what it computes, and keeps, is its own."""
        same = self.indices == other.indices and self.parameters == other.parameters
        alike = self.arguments == other.arguments and self.result_type == other.result_type
        return same and alike and not (self.layers or other.layers or self.fixed or other.fixed)

    @property
    def own_state(self) -> bool:
        """Whether it says what a cache keeps of it: where its base class does not say the same."""
        return self.state != (self.base.state if self.base else ())

    @property
    def constructor(self) -> str:
        if self.is_model:
            return "dtype: torch.dtype | None = None, device: Any = None"
        return ", ".join([*(f"{name}: int" for name in self.indices), "**factory: Any"])

    @property
    def signature(self) -> str:
        return ", ".join(map(str, self.arguments))

    @property
    def passed_on(self) -> str:
        """The model's own arguments as it hands them to another of its methods."""
        named = self.arguments.index(Argument("*", ""))
        positional = [argument.name for argument in self.arguments[:named]]
        return ", ".join([*positional, *(f"{a.name}={a.name}" for a in self.arguments[named + 1 :])])

    @property
    def kept(self) -> str:
        """What a cache holds of the class, in words."""
        carries = [shape.startswith("Carried") for _, shape in self.state]
        if all(carries):
            return "the layer carries from token to token"
        return "one token leaves" + (", or the layer carries from token to token," if any(carries) else "")

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
