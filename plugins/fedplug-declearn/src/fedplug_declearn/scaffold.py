"""Both ends of declearn's Scaffold modules: what travels between them, and what the node keeps.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, algorithm 1 with
option II in its mean-gradient form: node i corrects its gradients by ``c - c_i``, and ``c_i`` becomes the mean of its
gradients of the round. It sends ``delta = c_i(new) - c_i(old)``; the researcher adds all deltas up, and ``c`` is that
sum over the number of nodes that it has heard of.

So the sum at the researcher must be that of what the nodes hold, for ever. What could part them, and what is done:

* A node's reply is lost, or a round fails. The node keeps ``c_i`` in its state of that round, and the next request
  names the last round that counted: it goes on from that round's ``c_i`` (`fedplug.core.local_state`).
* A node has lost what it kept. It says so (``fresh``), and its old ``c_i`` cannot be taken out of the sum any more, so
  the researcher begins a new *generation*: the sum is zero again, and nodes drop a ``c_i`` of another generation.
* The researcher goes on from a breakpoint: sum, nodes and generation are part of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from declearn.model.api import Vector
from declearn.model.sklearn import NumpyVector
from declearn.optimizer.modules import OptiModule, ScaffoldAuxVar, ScaffoldClientModule, ScaffoldServerModule

from fedplug.core.context import RoundContext
from fedplug.core.errors import CodecError, FedplugWarning, PlanError, UpdateRejectedError, UsageError
from fedplug.core.params import Params, widened
from fedplug.core.trainer import Context
from fedplug.core.update import Aux, Update
from fedplug_declearn import vectors
from fedplug_declearn.aux_codec import pack_aux, unpack_field, whole_number

AUX = "declearn.scaffold"
"""The name of these arrays in ``Update.aux`` and ``ctx.inbox``, and of what a node keeps."""

_GENERATION, _FRESH = "generation", "fresh"

CLIENT_CURE = "The plan's init_optimizer needs it: Optimizer(lr=..., modules=['scaffold-client'])."
_SERVER_CURE = "Experiment(agg_optimizer=Optimizer(lr=1.0, modules=['scaffold-server']))."


class ScaffoldClient:
    """The end at a node.

    Args:
        module: What corrects the gradients.
    """

    def __init__(self, module: ScaffoldClientModule) -> None:
        self.module = module
        self._generation = 0
        self._fresh = True

    def begin(self, ctx: Context) -> None:
        """Take ``c`` from the researcher, and ``c_i`` from what the node has kept.

        Raises:
            PlanError: Nothing has come from the researcher, or something that is not the model's.
        """
        sent, trainable = ctx.inbox.get(AUX), vectors.movable(ctx.backend.trainable())
        if not isinstance(sent, Params):
            raise PlanError(
                "The module 'scaffold-client' needs its counterpart, and the researcher has none.",
                cure=_SERVER_CURE,
            )
        try:
            self._generation = whole_number(sent, _GENERATION)
            common = unpack_field(sent, "state")
        except CodecError as error:
            raise PlanError(f"What the researcher's 'scaffold-server' has sent cannot be used: {error}") from None
        kept = ctx.state.arrays(AUX) if ctx.state is not None else None
        known = ctx.state is not None and ctx.state.values(AUX).get(_GENERATION) == self._generation
        # it does not fit where other layers are frozen than before
        self._fresh = kept is None or not known or not vectors.same_layout(kept, trainable)
        self.module.state = 0.0 if self._fresh else vectors.unpack(kept, trainable)
        self.module.process_aux_var(ScaffoldAuxVar(state=self._common(common, ctx, trainable)))

    def _common(self, common: Any, ctx: Context, trainable: Mapping[str, Any]) -> Any:
        """``c`` as a vector over all that is trained here; for what is not shared, it corrects nothing."""
        if not isinstance(common, dict):
            return 0.0
        shared = {name: trainable[name] for name in trainable if name not in ctx.backend.local_names}
        if not vectors.same_layout(common, shared):
            wrong = min(common.keys() ^ shared.keys(), default="")
            problem = (
                f"{wrong!r} is trained {'here' if wrong in shared else 'there'} only" if wrong else "shapes differ"
            )
            raise PlanError(
                f"The control variate of the other nodes and this node's model do not fit: {problem}.",
                cure="Scaffold needs the same parameters to be trained everywhere; for another model it has to begin "
                "anew: set_agg_optimizer(Optimizer(...)).",
            )
        given = ctx.backend.native(common)
        own = self.module.state.coefs if isinstance(self.module.state, Vector) else {}
        rest = {n: own.get(n, vectors.zeros_like(each)) for n, each in trainable.items() if n not in shared}
        return vectors.vector_over({name: {**given, **rest}[name] for name in trainable})

    def end(self, ctx: Context) -> None:
        """Send the change of ``c_i``, and keep the new one."""
        aux = None
        if ctx.num_steps:  # without a step there is no mean of gradients, and c_i stays
            aux = self.module.collect_aux_var()
        if aux is not None:
            arrays = pack_aux("scaffold", aux)
            arrays = {n: a for n, a in arrays.items() if n.partition("/")[2] not in ctx.backend.local_names}
            about = {_GENERATION: np.array(self._generation), _FRESH: np.array(int(self._fresh))}
            ctx.outbox[AUX] = Params.from_arrays({**arrays, **about})
        if ctx.state is not None and isinstance(self.module.state, Vector):
            ctx.state.keep(AUX, vectors.pack(self.module.state), {_GENERATION: self._generation})


class ScaffoldServer:
    """The end at the researcher.

    Args:
        module: Holds the sum.
    """

    def __init__(self, module: ScaffoldServerModule) -> None:
        self.module = module
        self._generation = -1
        self._forget_round()

    def _forget_round(self) -> None:
        self._total: ScaffoldAuxVar | None = None
        self._names: AbstractSet[str] | None = None  # of the control variates, once somebody has sent some
        self._lost: list[str] = []

    def begin_round(self, ctx: RoundContext) -> Aux:
        """What all nodes are sent: ``c``.

        Raises:
            UsageError: The round is to be protected by differential privacy.
        """
        if ctx.training_args.get("dp_args"):
            raise UsageError(
                "Scaffold sends control variates beside the parameters, which differential privacy (dp_args) does not "
                "cover.",
                cure="Leave dp_args or the Scaffold modules out.",
            )
        self._forget_round()
        if self._generation < 0:
            self._generation = ctx.round  # another one than that of an optimizer that was replaced by this one
        arrays = pack_aux("scaffold", self.module.collect_aux_var())
        return {AUX: Params.from_arrays({**arrays, _GENERATION: np.array(self._generation)})}

    def check(self, update: Update, start: Params) -> None:
        """Refuse a change of ``c_i`` that is none.

        Raises:
            UpdateRejectedError: It is missing, or does not fit the model or what the others send.
        """
        sent = update.aux.get(AUX)
        if sent is None:
            if update.steps == 0:
                return
            raise UpdateRejectedError(f"it brings nothing for the researcher's 'scaffold-server'. {CLIENT_CURE}")
        try:
            delta, generation = unpack_field(sent, "delta"), whole_number(sent, _GENERATION)
            whole_number(sent, _FRESH)
        except CodecError as error:
            raise UpdateRejectedError(f"its control variate cannot be used: {error}") from None
        if not isinstance(delta, dict) or generation != self._generation:
            raise UpdateRejectedError("its control variate is none, or of another generation")
        model = vectors.movable(start)
        for name, array in delta.items():
            if name not in model or model[name].shape != array.shape or array.dtype.kind != "f":
                raise UpdateRejectedError(f"its control variate of {name!r} does not fit the model")
            if not np.abs(array).max(initial=0) <= _largest(model[name].dtype):
                raise UpdateRejectedError(f"its control variate of {name!r} is too large to be added up")
        known = self.module.s_state
        # the first that comes where nobody has sent any: with all nodes in their senses, each would do
        names = known.coefs.keys() if isinstance(known, Vector) else self._names or delta.keys()
        if names != delta.keys():
            wrong = min(names ^ delta.keys())
            raise UpdateRejectedError(f"its control variate and those of other nodes differ: only one has {wrong!r}")
        self._names = names

    def take(self, update: Update) -> None:
        """Add a change of ``c_i`` to those of this round."""
        sent = update.aux.get(AUX)
        if sent is None:
            return
        if (update.node_id in self.module.clients) == bool(whole_number(sent, _FRESH)):
            self._lost.append(update.node_id)
        delta = unpack_field(sent, "delta")
        assert isinstance(delta, dict)
        wide = NumpyVector({name: widened(array) for name, array in delta.items()})
        value = ScaffoldAuxVar(delta=wide, clients={update.node_id})
        self._total = value if self._total is None else self._total + value

    def settle(self, ctx: RoundContext) -> None:
        """The round is complete: add its changes to the sum, or begin anew."""
        if self._lost:
            names = ", ".join(map(repr, self._lost))
            self.module.s_state, self.module.clients = 0.0, set()
            self._generation = ctx.round + 1
            warnings.warn(
                f"{names} went on without the control variate of earlier rounds, which is no longer there. All nodes "
                "begin with new ones in the next round.",
                FedplugWarning,
                stacklevel=2,
            )
        elif self._total is not None:
            self.module.process_aux_var(self._total)
        self._forget_round()

    def state_dict(self) -> dict[str, Any]:
        """Sum, nodes, and generation."""
        state = self.module.get_state() | {"clients": sorted(self.module.clients)}
        return {_GENERATION: self._generation, "module": vectors.pack(state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._forget_round()
        self._generation = state[_GENERATION]
        self.module.set_state(vectors.unpack(state["module"], {}))


def ends(modules: list[OptiModule[Any]]) -> tuple[ScaffoldClient | None, ScaffoldServer | None]:
    """The ends of a conversation among ``modules``: that of a node, or of the researcher."""
    client = next((ScaffoldClient(each) for each in modules if isinstance(each, ScaffoldClientModule)), None)
    server = next((ScaffoldServer(each) for each in modules if isinstance(each, ScaffoldServerModule)), None)
    return client, server


def _largest(dtype: Any) -> float:
    """The largest number that may be added up: sums stay finite, and a mean fits into ``dtype``."""
    if dtype == np.float16:
        return float(np.finfo(np.float16).max)
    return math.sqrt(np.finfo(np.float64 if dtype == np.float64 else np.float32).max)
