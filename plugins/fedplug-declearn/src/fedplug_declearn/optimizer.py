"""`Optimizer`: gradients through declearn's regularizers and modules, at a node or at the researcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from declearn.optimizer.regularizers import FedProxRegularizer

from fedplug.core.agg_optimizer import AggOptimizer
from fedplug.core.context import RoundContext
from fedplug.core.errors import PlanError, UsageError
from fedplug.core.params import Array, Params, widened
from fedplug.core.plan_optimizer import PlanOptimizer
from fedplug.core.schedules import Schedule, schedule_of
from fedplug.core.update import Aux, Update
from fedplug_declearn import scaffold, vectors
from fedplug_declearn.specs import aux_name, make_modules, make_regularizers, plain

if TYPE_CHECKING:
    from declearn.model.api import Vector
    from declearn.optimizer.modules import OptiModule
    from declearn.optimizer.regularizers import Regularizer

    from fedplug.core.trainer import Context

_ANEW = "Begin with a new one: set_agg_optimizer(Optimizer(...)) at the researcher; at a node, leave "
_ANEW += "keep_optimizer_state out for a round."


class Optimizer(PlanOptimizer, AggOptimizer):
    """An optimizer made of declearn's parts (Inria MAGNET, declearn 2.9), for plans of any framework.

    One step: ``g <- r(g, w)`` for each regularizer, ``g <- m(g)`` for each module, ``w <- w - lr * (g + decay * w)``.
    With ``modules=["adam"]`` and a ``decay`` this is AdamW (Loshchilov and Hutter, Decoupled Weight Decay
    Regularization, ICLR 2019, algorithm 2).

    In a plan::

        def init_optimizer(self, optimizer_args):
            return Optimizer(lr=optimizer_args["lr"], modules=["adam"])

    At the researcher, the gradient is the way from the mean of the nodes' models to the model that they started from
    (Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2), so that ``lr=1.0`` without modules is plain
    averaging::

        Experiment(agg_optimizer=Optimizer(lr=0.1, modules=["yogi"]), ...)  # FedYogi

    Scaffold needs both: ``modules=["scaffold-client"]`` in the plan, ``modules=["scaffold-server"]`` at the researcher.

    Args:
        lr: The learning rate: a number, or a schedule such as `fedplug.core.schedules.CosineDecay`. declearn's own
            schedulers are not used.
        decay: Decoupled weight decay. It is multiplied by the rate, as in AdamW; declearn's ``w_decay`` is not.
        modules: In order: names (``"adam"``), pairs of a name and arguments (``("momentum", {"beta": 0.9})``), or
            declearn's own objects (``AdamModule()``). Beware of defaults that are not PyTorch's: Adam has
            ``beta_2=0.99`` and ``eps=1e-7``.
        regularizers: Likewise. The gradient of ``("ridge", {"alpha": a})`` is ``2 * a * w``.

    Raises:
        UsageError: An argument is wrong, or modules do not go together.
        UnknownNameError: There is no such module or regularizer.
    """

    @classmethod
    def conformance_cases(cls) -> list[Any]:
        """What ``fedplug plugins check`` tests."""
        from fedplug.testing import Subject

        decays = {"still": "weight decay pulls towards zero, whatever the nodes say"}
        made = [cls(1.0), cls(0.1, modules=["adam"]), cls(0.5, modules=[("momentum", {"beta": 0.9})])]
        return [*made, Subject(cls(0.1, decay=0.01), expected_failures=decays)]

    def __init__(
        self,
        lr: float | Schedule | Mapping[str, Any],
        decay: float = 0.0,
        modules: list[Any] | tuple[Any, ...] | None = None,
        regularizers: list[Any] | tuple[Any, ...] | None = None,
    ) -> None:
        if type(lr).__module__.startswith("declearn.") or (isinstance(lr, tuple | list)):
            raise UsageError(
                "The learning rate is a scheduler of declearn's, and these do not keep their place when a round ends.",
                cure="Use a schedule of ours, e.g. from fedplug_declearn import CosineDecay.",
            )
        self._rate = schedule_of(lr)
        decay = schedule_of(decay, "decay")  # type: ignore[assignment] # a schedule is refused next
        if isinstance(decay, Schedule):
            raise UsageError("decay must be a number; it is multiplied by lr, so it follows lr's schedule.")
        self._modules: list[OptiModule[Any]] = make_modules(modules)
        self._regularizers: list[Regularizer] = make_regularizers(regularizers)
        # plain data, under the names of the arguments: what a breakpoint writes down
        self.lr = self._rate.plain() if isinstance(self._rate, Schedule) else self._rate
        self.decay = float(decay)
        self.modules = [plain(module) for module in self._modules]
        self.regularizers = [plain(regularizer) for regularizer in self._regularizers]
        self._client, self._server = scaffold.ends(self._modules)
        self._alone = [module for module in self._modules if not aux_name(module)]
        self._steps = self._round = 0
        self._pending: Any = None  # a state that waits for the first step, which tells the kind of its vectors

    def __repr__(self) -> str:
        parts = [f"lr={self.lr!r}"] + [
            f"{name}={value!r}"
            for name, value in (("decay", self.decay), ("modules", self.modules), ("regularizers", self.regularizers))
            if value
        ]
        return f"Optimizer({', '.join(parts)})"

    def step(self, params: Mapping[str, Any], gradients: Mapping[str, Any]) -> None:
        """Move the parameters in place."""
        params = vectors.movable(params)
        if self._pending is not None and not self._restore(params):
            raise UsageError("The state of the optimizer is that of one for other parameters.", cure=_ANEW)
        given = {n: gradients[n] if n in gradients else vectors.zeros_like(param) for n, param in params.items()}
        vector = vectors.vector_over(given)
        if self._regularizers:
            weights = vectors.vector_over(vectors.copied(params))  # FedProx keeps those of the first step
            for regularizer in self._regularizers:
                vector = regularizer.run(vector, weights)
        with np.errstate(divide="ignore"):  # clipping divides by the norm, which may be zero: then nothing is clipped
            for module in self._modules:
                vector = module.run(vector)
        self._move(params, vector)
        self._steps += 1

    def _move(self, params: Mapping[str, Any], vector: Vector[Any]) -> None:
        rate = self._rate.rate(self._steps, self._round) if isinstance(self._rate, Schedule) else self._rate
        rate = float(rate)  # a scalar of NumPy's would turn float32 into float64
        moves = vector.coefs
        for name, param in params.items():
            move = rate * moves[name].reshape(param.shape)  # declearn's clipping makes shape (1,) of ()
            if self.decay:
                move += (rate * self.decay) * param
            param -= move

    # at a node ---------------------------------------------------------------------------------------------

    def begin(self, ctx: Context) -> None:
        """A training of a round begins."""
        if self._server is not None:
            raise UsageError("The module 'scaffold-server' is for the researcher.", cure="Use 'scaffold-client' here.")
        if self._client is None and scaffold.AUX in ctx.inbox:
            raise PlanError(
                "The researcher's 'scaffold-server' needs its counterpart, and the plan's optimizer has none.",
                cure=scaffold.CLIENT_CURE,
            )
        self._round = ctx.round
        if self._pending is not None and not self._restore(vectors.movable(ctx.backend.trainable())):
            ctx.trainer.log("What the optimizer has kept belongs to other parameters: it begins anew.")
            self._steps, self._pending = 0, None
        if self._client is not None:
            self._client.begin(ctx)
        self._start_round()

    def end(self, ctx: Context) -> None:
        """The training is over."""
        if self._client is not None:
            self._client.end(ctx)

    # at the researcher -------------------------------------------------------------------------------------

    def begin_round(self, ctx: RoundContext) -> Aux:
        """A round begins: what the nodes are sent for the counterparts of modules."""
        if self._client is not None:
            raise UsageError(
                "The module 'scaffold-client' is for the nodes: it belongs into the plan's init_optimizer.",
                cure="Use 'scaffold-server' here.",
            )
        if any(isinstance(each, FedProxRegularizer) for each in self._regularizers):
            raise UsageError(
                "The regularizer 'fedprox' is for the nodes: it pulls towards the model that a round begins with, from "
                "where the researcher makes only one step.",
                cure="Put it into the plan's init_optimizer.",
            )
        self._round = ctx.round
        if self._pending is not None:
            self._restore(None)
        self._start_round()
        return {} if self._server is None else self._server.begin_round(ctx)

    def check_update(self, update: Update, start: Params) -> None:
        """Refuse an update that brings nothing, or nonsense, for the counterpart of a module."""
        if self._server is not None:
            self._server.check(update, start)

    def take(self, update: Update) -> None:
        """Take what an update brings."""
        if self._server is not None:
            self._server.take(update)

    def advance(self, start: Params, aggregated: Params, ctx: RoundContext) -> Params:
        """One step from ``start`` against ``start - aggregated``, but for whole numbers and buffers.

        Half precision is computed in single.
        """
        if self._server is not None:
            self._server.settle(ctx)
        self._round = ctx.round
        moving = [name for name in vectors.movable(start) if name not in ctx.buffers]
        params = {name: widened(start[name]) for name in moving}
        if not vectors.fits([module.get_state() for module in self._alone], params):
            raise UsageError("What agg_optimizer has learnt is about another model.", cure=_ANEW)
        self.step(params, {name: params[name] - widened(aggregated[name]) for name in moving})

        def fill(name: str, out: Array) -> None:
            value = params.get(name, aggregated[name])
            out[...] = value.astype(out.dtype, copy=False)

        return Params.build(start.spec, fill)

    # what is remembered ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Number of steps, and the states of all modules, but for what a node keeps in any case."""
        packed = self._pending
        if packed is None:
            packed = [vectors.pack(module.get_state()) for module in self._alone]
        names = [module.name for module in self._modules]
        found: dict[str, Any] = {"steps": self._steps, "names": names, "modules": packed}
        if self._server is not None:
            found["scaffold"] = self._server.state_dict()
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            UsageError: It is the state of other modules.
        """
        mine = [module.name for module in self._modules]
        if list(state.get("names", ())) != mine:
            raise UsageError(f"The state is that of an optimizer with other modules than {mine}.", cure=_ANEW)
        self._steps, self._pending = state["steps"], state["modules"]
        if self._server is not None:
            self._server.load_state_dict(state["scaffold"])

    def _restore(self, like: Mapping[str, Any] | None) -> bool:
        """Give the modules the state that waits, as vectors of the kind of ``like``; whether it fits these arrays.

        Args:
            like: Arrays or tensors; None at the researcher, who computes with arrays of NumPy.
        """
        if like is not None and not vectors.fits(self._pending, like):
            return False
        for module, packed in zip(self._alone, self._pending, strict=True):
            module.set_state(vectors.unpack(packed, like or {}))
        self._pending = None
        return True

    def _start_round(self) -> None:
        for regularizer in self._regularizers:
            regularizer.on_round_start()
        for module in self._modules:
            module.on_round_start()
