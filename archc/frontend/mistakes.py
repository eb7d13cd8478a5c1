"""Every mistake that a spec can contain, with its wording."""

from __future__ import annotations

from archc.errors import Mistake


class BadSyntax(Mistake):
    message = "unexpected {found}"


class TooDeep(Mistake):
    message = "nested too deeply, the limit is {limit}"


class TooLarge(Mistake):
    message = "{what} is too large: {value}, the limit is {limit}"


class TooMany(Mistake):
    message = "more than {limit} {what}"


class UnknownName(Mistake):
    message = "unknown {kind} `{name}`"


class DuplicateName(Mistake):
    message = "{kind} `{name}` is defined twice"


class AmbiguousName(Mistake):
    message = "imports `{first}` and `{second}` both define `{name}`"
    hint = "import one of them, or define the name here"


class ReservedName(Mistake):
    message = "`{name}` cannot name {kind}: {reason}"


class NoDefault(Mistake):
    message = "`{name}` has no default: only a decoder's tokens have one, and what comes with each token"


class NotFollowing(Mistake):
    message = "{what} is more than arithmetic on that of the last one"
    hint = "say what it is by itself, such as `{name} + 1`"


class MissingImport(Mistake):
    message = "no spec `{name}.arch` beside {importer} or among the standard specs"


class ImportCycle(Mistake):
    message = "import cycle: {cycle}"


class Recursion(Mistake):
    message = "block `{name}` calls itself: {chain}"
    hint = "layers are repeated with `for`"


class MissingForward(Mistake):
    message = "arch `{name}` has no `forward`"
    hint = "add `forward(tokens: [B, T]) {{ ... }}`"


class MissingReturn(Mistake):
    message = "`{name}` returns nothing"
    hint = "end it with `return ...`"


class AfterReturn(Mistake):
    message = "this statement is never reached: it follows a `return`"


class ReturnInLoop(Mistake):
    message = "`return` inside of a `for`"
    hint = "assign to a variable that exists before the loop and return that after it"


class ExpertsDiffer(Mistake):
    message = "what an expert computes depends on which one it is"
    hint = "`{variable}` may stand in paths, and as in `weights[{variable}]`"


class MissingExperts(Mistake):
    message = "tokens choose among {choices} experts, but there are only {count}"
    hint = (
        "as many as the router scores are needed; `unless_zero(chosen, weights)` leaves those of weight 0 out"
    )


class NotInExperts(Mistake):
    message = "{what} cannot stand inside of `experts`: an expert sees each token by itself"


class NotInStep(Mistake):
    message = "{what} cannot stand inside of `scan`: a step sees one token, and what the step before left"
    hint = "compute it before the `scan`, or of its result"


class LayersInStep(Mistake):
    message = "a `for` with weights of its own cannot stand inside of `scan`"
    hint = 'with paths as strings, such as `as {{"layers." + i}}`, its iterations are written out'


class BareState(Mistake):
    message = "the state `{name}` needs {missing}"
    hint = "write `{name}: [...] = 0`: the shape that it has for one token, and what it is before the first"


class Stateless(Mistake):
    message = "this `scan` has no states"
    hint = "write them in its brackets, as in `(h: [d] = 0)`; without any, the body needs no `scan`"


class StateStays(Mistake):
    message = "the state `{name}` never changes: the body of the `scan` does not assign to it"


class StateDiffers(Mistake):
    message = "the state `{name}` is {before}, but a step leaves {after}"
    hint = "what a step assigns to a state is that of the next token: of the same shape and dtype"


class NothingScanned(Mistake):
    message = "this `scan` reads nothing of a token: its states would be the same for all sequences"


class NotInLoss(Mistake):
    message = "{what} cannot stand inside of a `loss` or a `note`"
    hint = "compute it before, and give it a name"


class OnlyInLoss(Mistake):
    message = "{what} can stand inside of a `loss` only"


class NotANote(Mistake):
    message = "`noted` needs the name of a `note`, as in `noted(load)`"


class NotesDiffer(Mistake):
    message = "what is noted as `{name}` must be alike everywhere: here {second}, before {first}"


class BadDecomposition(Mistake):
    message = "fusion `{name}`: {reason}"


class ExpectationFailed(Mistake):
    message = "`expect fuse({rule})`: the fusion did not fire"


class WrongArguments(Mistake):
    message = "`{callee}` {fault}"


class NotCallable(Mistake):
    message = "{what} cannot be called"


class WrongCount(Mistake):
    message = "{names} for {values}"


class NotSingle(Mistake):
    message = "one value is needed here, and this has {found}"
    hint = "give each a name: `a, b = ...`"


class NeedsPath(Mistake):
    message = "`{op}` has parameters and needs a name for them"
    hint = "write `{op}(...) as some_name`, the path its tensors have in the checkpoint{around}"


class UselessPath(Mistake):
    message = "`as` names parameters, but {what} has none"


class DuplicatePath(Mistake):
    message = "parameter path `{path}` is used twice"
    hint = "give each its own `as`, or share one on purpose with `tied_to`"


class UselessStacking(Mistake):
    message = "`stacking = rows` is for one tensor with the weights of all experts, and `{path}` is none"
    hint = "in `experts`, such a tensor has a path that does not tell experts apart"


class UnreadParameter(Mistake):
    message = "nothing that the model returns depends on parameter `{path}`"
    hint = "use it, or leave it out; tensors that only a checkpoint holds are named by `ignore`"


class UnreadValue(Mistake):
    message = "nothing that the model returns depends on this, which is made with {paths}"
    hint = "use it, as in `x = x + ...`, or return it from its block; or leave it out"


class BlindQuery(Mistake):
    message = "the first token's query stands before all keys, and would see none"
    hint = "`maximum(..., 0)` around its position lets it see the first key"


class UnindexedPath(Mistake):
    message = "every iteration would have the same parameter `{path}`"
    hint = "name the loop, `for {variable} in ... as layers`, or put `{{{variable}}}` into the path"


class BadPathIndex(Mistake):
    message = "a path index must be the loop variable times a constant plus a constant"
    hint = (
        "such as `{{i}}`, `{{i + 1}}` or `{{2 * i}}` in a `for` over a range; "
        'a string, as in `{{"uses." + i // 2}}`, unrolls the loop'
    )


class UnknownRoot(Mistake):
    message = "no parameter path of {arch} begins with `{segment}`"


class UnknownTie(Mistake):
    message = "`tied_to` names `{path}`, but there is no such parameter before this place"


class WrongTie(Mistake):
    message = "`tied_to` would give `{path}` of shape {have} where {need} is needed"


class WrongValue(Mistake):
    message = "{what} must be {expected}, not {found}"


class NotWhole(Mistake):
    message = "{what} must be a whole number, not {found}"


class NotDivisible(Mistake):
    message = "{text}: {left} is not divisible by {right}"


class BadArithmetic(Mistake):
    message = "cannot compute `{text}`: {reason}"


class NoFields(Mistake):
    message = "{what} has no field `{name}`"


class TensorCondition(Mistake):
    message = "{what} is decided when the spec is compiled, but this is a tensor"
    hint = "what a tensor holds is known only when the model runs"


class TensorIndex(Mistake):
    message = "a tensor cannot be indexed, and this is {found}"
    hint = "`split` and `slice` take parts of its last dim"


class NoTensorOperator(Mistake):
    message = "`{operator}` does not work on tensors"
    hint = "tensors have `+`, `-`, `*`, `/`, `** 2`, and can be compared with `none`"


class TensorConstant(Mistake):
    message = "`{name}` is {found}, but constants are computed when the spec is compiled"
    hint = "compute it in `forward` or in a block"


class NotATensor(Mistake):
    message = "{what} must be a tensor, not {found}"


class WrongShape(Mistake):
    message = "`{op}`: {reason}"


class WrongAnnotation(Mistake):
    message = "`{name}` is annotated {expected} but is {found}"


class NoAnnotation(Mistake):
    message = "input `{name}` needs a shape"
    hint = "write `{name}: [B, T]` for token ids, `{name}: float[B, T, d]` for values"


class NoOutputs(Mistake):
    message = "`forward` must return tensors, not {found}"


class CarriedTypeChanges(Mistake):
    message = "`{name}` enters the loop as {before} and leaves an iteration as {after}"
    hint = "a value carried from layer to layer {rule}"
