"""Work on a GPU: launches and bytes, counted as ops run on tensors without memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_GROUPED = {"grouped": 1, "dispatched": 3}  # where ops of such names take the weights of all experts
_NO_LAUNCH = ("_unsafe_view", "empty", "promote_types")


@dataclass
class Work:
    """Launches by the name of what is launched, and bytes read and written."""

    launches: dict[str, int] = field(default_factory=dict)
    bytes: int = 0

    @property
    def count(self) -> int:
        return sum(self.launches.values())

    def add(self, name: str, launches: int, moved: int, times: int = 1) -> None:
        self.launches[name] = self.launches.get(name, 0) + launches * times
        self.bytes += moved * times


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what ops launch and move; views and new memory are neither."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not function.is_view and name not in _NO_LAUNCH:
            self.work.add(name, 1, _moved(name, args, result))
        return result


def _moved(name: str, args: Any, result: Any) -> int:
    """Bytes read and written; ops that pick or place rows touch only those."""
    if name == "embedding":
        return 2 * bytes_of(result)
    if name == "index_copy_":
        return 2 * bytes_of(args[3])
    if name == "index_put_":
        return 2 * bytes_of(args[2])
    moved = sum(bytes_of(leaf) for leaf in (*tree_leaves(args), *tree_leaves(result)))
    if name.startswith(("linear_attention", "running_maximum")):
        moved += bytes_of(args[-1])  # the state, which is written too
    place = _GROUPED.get(name.partition("_")[0])
    return moved if place is None else moved - idle_bytes(args[place], len(tree_leaves(result)[0]))


def bytes_of(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def idle_bytes(weight: Tensor, rows: int) -> int:
    """Bytes of the experts to which none of so many rows can have come."""
    return max(len(weight) - rows, 0) * (bytes_of(weight) // len(weight))
