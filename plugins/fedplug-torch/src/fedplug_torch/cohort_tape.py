"""A stacked training step, recorded once and played back: what autograd and `torch.func` do only the first time.

The step of several nodes is the plan's own ``training_step`` under `torch.func.vmap`, with parameters, batches and so
losses and gradients stacked along a first axis. Working that out takes far longer than the arithmetic of a small model.
So the operations that reach the backend are recorded while it is done, for one number of nodes and one size of batch,
and played back from then on. Where one operation needs another's result is known by the identity of the tensors. What
could make the record false for other values is refused: random numbers, writing into inputs, tensors from elsewhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fedplug.core.cohort import CohortError

aten = torch.ops.aten

_NEW = (aten.lift_fresh.default, aten.lift_fresh_copy.default)
"""Operations that bring in a constant that the plan has written down."""

_SLOWER = ("convolution", "_convolution", "convolution_backward", "cudnn_convolution", "mkldnn_convolution")


class Tape(TorchDispatchMode):
    """Records the operations on some inputs as a graph.

    Args:
        inputs: The tensors that are other ones each time.
        constants: Those that stay.
    """

    def __init__(self, inputs: Sequence[torch.Tensor], constants: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
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
            CohortError: One of them does not come from the recorded operations.
        """
        self.graph.output(tuple(None if tensor is None else self._node(tensor) for tensor in outputs))
        return self.graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise CohortError("training draws random numbers")
        if func._opname in _SLOWER:
            raise CohortError("the model has convolutions, which are slower stacked than one by one")
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
            raise CohortError("training uses a tensor that is neither the model's nor the batch's")
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
                    raise CohortError("training writes into a parameter, a buffer or the batch")


def simplify(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> None:
    """Take out of a recorded graph what does nothing, is done twice, or could be done beforehand.

    Args:
        graph: It is changed; its results stay the same up to rounding.
        constants: The constants by name; what is worked out beforehand is added.
    """
    if any(_is_mutable(node) for node in graph.nodes):
        return  # the order of reading and writing counts
    _drop_idle(graph)
    _fold(graph, constants)
    _share(graph)
    _add_in_products(graph)
    _untwist(graph)
    graph.eliminate_dead_code()


def _is_mutable(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and (node.target._schema.is_mutable)
    )


_IDLE = (
    aten.detach.default, aten.alias.default, aten.expand.default, aten.view.default, aten._unsafe_view.default,
    aten._to_copy.default, aten.clone.default, aten.reshape.default,
)  # fmt: skip


def _drop_idle(graph: fx.Graph) -> None:
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


def _untwist(graph: fx.Graph) -> None:
    """A transposed matrix that is transposed again is the matrix."""
    for node in list(graph.nodes):
        before = node.args[0] if node.target is aten.transpose.int else None
        if isinstance(before, fx.Node) and before.target is aten.transpose.int and before.args[1:] == node.args[1:]:
            node.replace_all_uses_with(cast(fx.Node, before.args[0]))
            graph.erase_node(node)


_FILLED = (
    aten.ones_like.default, aten.zeros_like.default, aten.full_like.default, aten.new_zeros.default,
    aten.new_ones.default, aten.new_full.default,
)  # fmt: skip
"""Their result does not depend on the values of their arguments."""

_MOST_FOLDED = 1 << 20  # bytes of a constant


def _fold(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> None:
    known: set[fx.Node] = {node for node in graph.nodes if node.op == "get_attr"}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        value = node.meta["val"]
        if not (node.target in _FILLED or all(each in known for each in node.all_input_nodes)):
            continue
        if not isinstance(value, torch.Tensor) or value.numel() * value.element_size() > _MOST_FOLDED:
            continue
        name = f"constant_{len(constants)}"
        constants[name] = value.detach()
        with graph.inserting_before(node):
            folded = graph.get_attr(name)
        folded.meta["val"] = value
        known.add(folded)
        node.replace_all_uses_with(folded)
        graph.erase_node(node)


def _share(graph: fx.Graph) -> None:
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


def _add_in_products(graph: fx.Graph) -> None:
    """``bias + a @ b`` in one operation."""
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
            continue
        for product, bias in (node.args, node.args[::-1]):
            if not (isinstance(product, fx.Node) and isinstance(bias, fx.Node)):
                continue
            is_product = product.target is aten.bmm.default and len(product.users) == 1
            value, result = bias.meta["val"], node.meta["val"]
            if (
                not is_product
                or value.dim() != 3
                or value.dtype != result.dtype
                or result.shape != product.meta["val"].shape
            ):
                continue
            with graph.inserting_before(node):
                both = graph.call_function(aten.baddbmm.default, (bias, *product.args))
            both.meta["val"] = result
            node.replace_all_uses_with(both)
            graph.erase_node(node)
            graph.erase_node(product)
            break


def take_steps(graph: fx.Graph, factors: Sequence[tuple[float, float]]) -> None:
    """Let a graph that returns losses and gradients move the parameters itself, where it can within the last product.

    Args:
        graph: Its first inputs are the parameters, which it then changes; it returns the losses only.
        factors: For each parameter, what it and its gradient are multiplied with before they are added.
    """
    output = next(node for node in graph.nodes if node.op == "output")
    values = [node for node in graph.nodes if node.op == "placeholder"][: len(factors)]
    losses, *gradients = cast(tuple[Any, ...], output.args[0])
    output.args = ((losses,),)
    steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    with graph.inserting_before(output):
        for value, gradient, (keep, add) in zip(values, gradients, factors, strict=True):
            if gradient is None:
                continue
            product = _product(gradient, values)
            if product is not None:
                steps.append(("baddbmm_", (value, *product), {"beta": keep, "alpha": add}))
                continue
            if _shares_memory(gradient, values):
                gradient = graph.call_function(aten.clone.default, (gradient,))
            if keep != 1:
                steps.append(("mul_", (value, keep), {}))
            steps.append(("add_", (value, gradient), {"alpha": add}))
        for method, args, kwargs in steps:  # after everything that reads parameters
            graph.call_method(method, args, kwargs)
    _untwist(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("call_method", "placeholder", "output") or _is_mutable(node))


def _product(gradient: Any, values: Sequence[fx.Node]) -> tuple[fx.Node, fx.Node] | None:
    """The two stacks of matrices that a gradient is nothing but the product of."""
    flips, node = 0, gradient
    while node.target is aten.transpose.int and set(node.args[1:]) == {1, 2}:
        flips, node = flips + 1, node.args[0]
    if node.target is not aten.bmm.default or any(_shares_memory(factor, values) for factor in node.args):
        return None
    left, right = node.args
    if flips % 2 == 0:
        return left, right
    turned = [node.graph.call_function(aten.transpose.int, (each, 1, 2)) for each in (right, left)]
    return turned[0], turned[1]


def _shares_memory(node: Any, values: Sequence[fx.Node]) -> bool:
    """Whether a result may be a view of one of ``values``, which are about to be changed."""
    while node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        returns = node.target._schema.returns
        if len(returns) == 1 and returns[0].alias_info is None and node.target is not aten._unsafe_view.default:
            return False
        if not node.args or not isinstance(node.args[0], fx.Node):
            return True
        node = node.args[0]
    return node in values or node.op == "call_function"


_PLAIN: dict[Any, Callable[..., Any]] = {
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
    aten.transpose.int: torch.transpose,
    aten.relu.default: torch.relu,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.neg.default: torch.neg,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: torch.reshape,  # where something idle was left out, the layout may be another one
    aten._unsafe_view.default: torch.reshape,
    aten.gather.default: torch.gather,
    aten.scatter_add.default: torch.scatter_add,
    aten.where.self: torch.where,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.ne.Scalar: torch.ne,
}
"""The same operations as torch's own functions, which take less time to be called."""


def program(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> Callable[..., Any]:
    """A graph as a function of its inputs."""
    for node in graph.nodes:
        node.target = _PLAIN.get(node.target, node.target) if node.op == "call_function" else node.target
    root = torch.nn.Module()
    for name, tensor in constants.items():
        root.register_buffer(name, tensor, persistent=False)
    graph.lint()
    forward: Callable[..., Any] = fx.GraphModule(root, graph).forward
    return forward
