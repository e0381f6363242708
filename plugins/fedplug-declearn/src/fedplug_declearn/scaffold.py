"""Both ends of declearn's Scaffold modules, as terms of nodes and their sum.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, algorithm 1 with
option II in its mean-gradient form: node i corrects its gradients by ``c - c_i``, and ``c_i`` becomes the mean of its
gradients of the round. The researcher adds up by how much each ``c_i`` has changed, and ``c`` is that sum over the
number of nodes that it has heard of.

declearn's modules do the arithmetic. What is sent, what is kept, and what happens when one of both is lost, is that of
all such sums: `fedplug.core.node_terms`. Names of nodes are no part of it: who has sent an update is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from declearn.model.api import Vector
from declearn.model.sklearn import NumpyVector
from declearn.optimizer.modules import OptiModule, ScaffoldAuxVar, ScaffoldClientModule, ScaffoldServerModule

from fedplug.core.context import RoundContext
from fedplug.core.errors import PlanError
from fedplug.core.node_terms import NodeTerm, TermSum
from fedplug.core.params import Array, Params
from fedplug.core.trainer import Context
from fedplug.core.update import Aux, Update
from fedplug_declearn import vectors

AUX = "declearn.scaffold"
"""The name of these arrays in ``Update.aux`` and ``ctx.inbox``, and of what a node keeps."""

CLIENT_CURE = "The plan's init_optimizer needs it: Optimizer(lr=..., modules=['scaffold-client'])."
_SERVER_CURE = "Experiment(agg_optimizer=Optimizer(lr=1.0, modules=['scaffold-server']))."


class ScaffoldClient:
    """The end at a node.

    Args:
        module: What corrects the gradients.
    """

    def __init__(self, module: ScaffoldClientModule) -> None:
        self.module = module
        self._term = NodeTerm(AUX)

    def begin(self, ctx: Context) -> None:
        """Take ``c`` from the researcher, and ``c_i`` from what the node has kept.

        Raises:
            PlanError: Nothing has come from the researcher, or something that is not the model's.
        """
        if AUX not in ctx.inbox:
            raise PlanError(
                "The module 'scaffold-client' needs its counterpart, and the researcher has none.",
                cure=_SERVER_CURE,
            )
        term = self._term = NodeTerm(AUX)
        term.begin(ctx)
        self.module.state = _vector(term.own, ctx)
        self.module.process_aux_var(ScaffoldAuxVar(state=_vector(term.common, ctx)))

    def end(self, ctx: Context) -> None:
        """Send the change of ``c_i``, and keep the new one."""
        term: dict[str, Array] | None = None
        if ctx.num_steps and self.module.collect_aux_var() is not None:  # without a step, c_i stays
            assert isinstance(self.module.state, Vector)
            means = self.module.state.coefs
            term = ctx.backend.to_numpy({name: means[name] for name in self._term.parts})
        self._term.end(ctx, term)


class ScaffoldServer:
    """The end at the researcher.

    Args:
        module: Holds the sum.
    """

    def __init__(self, module: ScaffoldServerModule) -> None:
        self.module = module
        self._terms = TermSum(AUX, f"it brings nothing for the researcher's 'scaffold-server'. {CLIENT_CURE}")

    def begin_round(self, ctx: RoundContext) -> Aux:
        """What all nodes are sent: ``c``.

        Raises:
            UsageError: The round is to be protected by differential privacy.
        """
        if self._terms.begins_anew(ctx):
            self._hold(0.0)
        common = self.module.collect_aux_var().state
        return self._terms.announce(ctx, common.coefs if isinstance(common, Vector) else {})

    def check(self, update: Update, start: Params) -> None:
        """Refuse a change of ``c_i`` that is none.

        Raises:
            UpdateRejectedError: It is missing, or does not fit the model or what the others send.
        """
        self._terms.check(update, start)

    def take(self, update: Update) -> None:
        """Add a change of ``c_i`` to those of this round."""
        self._terms.take(update)

    def settle(self, ctx: RoundContext) -> None:
        """The round is complete: add its changes to the sum, or begin anew."""
        change = self._terms.settle(ctx)
        if change is None:
            self._hold(0.0)
        elif change:
            self.module.process_aux_var(ScaffoldAuxVar(delta=NumpyVector(change), clients=self._terms.nodes))

    def _hold(self, total: Vector[Any] | float) -> None:
        """Take ``total`` for the sum over the nodes that are known."""
        self.module.set_state({"s_state": total, "clients": self._terms.nodes})

    def state_dict(self) -> dict[str, Any]:
        """The sum, and whose control variates it is of."""
        return {"terms": self._terms.state_dict(), "sum": vectors.pack(self.module.s_state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._terms.load_state_dict(state["terms"])
        self._hold(vectors.unpack(state["sum"], {}))


def ends(modules: list[OptiModule[Any]]) -> tuple[ScaffoldClient | None, ScaffoldServer | None]:
    """The ends of a conversation among ``modules``: that of a node, or of the researcher."""
    client = next((ScaffoldClient(each) for each in modules if isinstance(each, ScaffoldClientModule)), None)
    server = next((ScaffoldServer(each) for each in modules if isinstance(each, ScaffoldServerModule)), None)
    return client, server


def _vector(shared: Mapping[str, Array] | None, ctx: Context) -> Vector[Any] | float:
    """``shared`` as a vector over all that is trained, with zeros for what stays at the node; 0 for None."""
    if shared is None:
        return 0.0
    given = ctx.backend.native(shared)
    trained = vectors.movable(ctx.backend.trainable())
    return vectors.vector_over({n: given[n] if n in given else vectors.zeros_like(a) for n, a in trained.items()})
