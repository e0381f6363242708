"""What is done to the record of a stacked step before it is played back: simpler, and with SGD in its last products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from fedplug_torch.tape import drop_idle, is_mutable, share, untwist

aten = torch.ops.aten


def simplify(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> None:
    """Take out of a recorded graph what does nothing, is done twice, or could be done beforehand.

    Args:
        graph: It is changed; its results stay the same up to rounding.
        constants: The constants by name; what is worked out beforehand is added.
    """
    if any(is_mutable(node) for node in graph.nodes):
        return  # the order of reading and writing counts
    drop_idle(graph)
    _fold(graph, constants)
    share(graph)
    _add_in_products(graph)
    untwist(graph)
    graph.eliminate_dead_code()


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
    untwist(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("call_method", "placeholder", "output") or is_mutable(node))


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
