"""Operations recorded once and played back: what modules, autograd and `torch.func` do only the first time.

Working out which operations a training step comes to takes far longer than the arithmetic of a small model. So those
that reach the backend are recorded while it is done, for batches of one layout, and played back from then on. Where one
operation needs another's result is known by the identity of the tensors. What could make the record false for other
values is refused: random numbers, writing into inputs, tensors from elsewhere, looking at values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_NEW = (aten.lift_fresh.default, aten.lift_fresh_copy.default)
"""Operations that bring in a constant that the plan has written down."""


class TapeError(Exception):
    """Operations cannot be recorded; the message says why, to stand behind a colon."""


class Tape(TorchDispatchMode):
    """Records the operations on some inputs as a graph.

    Args:
        inputs: The tensors that are other ones each time.
        constants: Those that stay.
        refused: Operations that are not to be recorded, with the reason.

    Attributes:
        graph: What is recorded.
        constants: By name, what its operations need besides the inputs.
    """

    def __init__(
        self, inputs: Sequence[torch.Tensor], constants: Sequence[torch.Tensor], refused: Mapping[str, str]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._refused = refused
        self._refusal = ""
        self.constants: dict[str, torch.Tensor] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[torch.Tensor] = []  # an identity is one only as long as the tensor lives
        self._inputs: set[int] = set()  # where their memory is
        for number, tensor in enumerate(inputs):
            self._note(tensor, self.graph.placeholder(f"input_{number}"))
            self._inputs.add(tensor.untyped_storage().data_ptr())
        for tensor in constants:
            self._constant(tensor)

    def result(self, outputs: Sequence[torch.Tensor | None]) -> fx.Graph:
        """The graph that returns ``outputs``; None for one that is None.

        Raises:
            TapeError: One of them does not come from the recorded operations, or one of these was refused.
        """
        if self._refusal:  # whoever catches an error does not hide that there was one
            raise TapeError(self._refusal)
        self.graph.output(tuple(None if tensor is None else self._node(tensor) for tensor in outputs))
        return self.graph

    def refuse(self, why: str) -> TapeError:
        """The error that says why there is no record; from now on there is none, even if somebody catches it."""
        self._refusal = self._refusal or why
        return TapeError(why)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._record(func, args, kwargs or {})
        except Exception as error:
            self.refuse(str(error) if isinstance(error, TapeError) else f"an operation fails ({type(error).__name__})")
            raise

    def _record(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise TapeError("training draws random numbers")
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise TapeError("training looks at values of tensors")
        if why := self._refused.get(func._opname):
            raise TapeError(why)
        if func in _NEW:
            out = func(*args, **kwargs)
            self._constant(out)
            return out
        if func._schema.is_mutable:
            self._check_writes(func, args, kwargs)
        node = self.graph.call_function(func, self._nodes_in(args), self._nodes_in(kwargs))
        out = func(*args, **kwargs)
        node.meta["val"] = out
        if isinstance(out, torch.Tensor):
            self._note(out, node)
        else:
            for number, each in enumerate(out if isinstance(out, tuple | list) else ()):
                if isinstance(each, torch.Tensor):
                    part = self.graph.call_function(operator.getitem, (node, number))
                    part.meta["val"] = each
                    self._note(each, part)
        return out

    def _nodes_in(self, values: Any) -> Any:
        return pytree.tree_map_only(torch.Tensor, self._node, values)

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor))
        if node is None:
            raise TapeError("training uses a tensor that is neither the model's nor the batch's")
        return node

    def _constant(self, tensor: torch.Tensor) -> None:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = tensor
        self._note(tensor, self.graph.get_attr(name))

    def _note(self, tensor: torch.Tensor, node: fx.Node) -> None:
        node.meta["val"] = tensor
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)

    def _check_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            written = args[number] if number < len(args) else kwargs.get(argument.name)
            for tensor in pytree.tree_leaves(written):
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() in self._inputs:
                    raise TapeError("training writes into a parameter, a buffer or the batch")


def is_mutable(node: fx.Node) -> bool:
    """Whether a recorded operation writes into one of its arguments; then the order of reading and writing counts."""
    return (
        node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    )


_IDLE = (
    aten.detach.default, aten.alias.default, aten.expand.default, aten.view.default, aten._unsafe_view.default,
    aten._to_copy.default, aten.clone.default, aten.reshape.default,
)  # fmt: skip


def drop_idle(graph: fx.Graph) -> None:
    """Take out of a graph that writes nowhere what gives back its argument."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        before, after = node.args[0].meta["val"], node.meta["val"]
        by_one = node.target is aten.mul.Scalar and node.args[1] == 1  # a bias, of `torch.addmm`
        idle = _layout(before) == _layout(after) if node.target in _IDLE else by_one and _kind(before) == _kind(after)
        if idle:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return *_kind(tensor), tensor.stride()


def untwist(graph: fx.Graph) -> None:
    """A transposed matrix that is transposed again is the matrix."""
    for node in list(graph.nodes):
        before = node.args[0] if node.target in (aten.transpose.int, aten.t.default) else None
        if isinstance(before, fx.Node) and before.target is node.target and before.args[1:] == node.args[1:]:
            node.replace_all_uses_with(cast(fx.Node, before.args[0]))
            graph.erase_node(node)


def share(graph: fx.Graph) -> None:
    """Do only once in a graph that writes nowhere what is done several times."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


_PLAIN: dict[Any, Callable[..., Any]] = {
    aten.transpose.int: torch.transpose,
    aten.view.default: torch.reshape,  # where something idle was left out, the layout may be another one
    aten._unsafe_view.default: torch.reshape,
    aten.sum.dim_IntList: torch.sum,
    aten.where.self: torch.where,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.ne.Scalar: torch.ne,
}


def _plain(operation: Any) -> Any:
    """The same operation as torch's own function, which takes less time to be called, where there is one."""
    if operation in _PLAIN or not isinstance(operation, torch._ops.OpOverload) or operation._overloadname != "default":
        return _PLAIN.get(operation, operation)
    return getattr(torch._C._VariableFunctions, operation._opname, operation)


def program(graph: fx.Graph, constants: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
    """A graph as a function of its inputs."""
    graph.lint()
    for node in graph.nodes:
        if node.op == "call_function":
            node.target = _plain(node.target)
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # noqa: S102 - what torch has made of the recorded operations
    forward: Callable[..., Any] = partial(names["forward"], SimpleNamespace(**constants))
    return forward
