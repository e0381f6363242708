"""FedEM: every node's model is its own mixture of a few models that all nodes train together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedplug.core.data import BatchSource, LoaderArgs
from fedplug.core.errors import ParamsError, PlanError, UsageError
from fedplug.core.local_state import StateBook
from fedplug.core.metrics import as_metrics
from fedplug.core.params import Array, Params
from fedplug.core.rng import SeedTree
from fedplug.core.trainer import Backend, Context, FitResult, Hook, HookSet, MultiModelTrainer, Phase, Trigger
from fedplug.core.training_plan import Allocate, PlanSetup, TrainingPlan
from fedplug_personal.settings import count

SECTION = "fedem"  # of the node's state
TRAINING = (Phase.TRAIN, Phase.FINETUNE)


class Weighted(NamedTuple):
    """What stands in the place of a batch's target while a component trains.

    Attributes:
        target: The target.
        weights: How much the component is responsible for each sample, float64 of shape ``(batch,)``.
    """

    target: Any
    weights: Array


class RowSource(BatchSource):
    """Batches of another source; ``rows`` are the numbers of the samples in the batch drawn last."""

    def __init__(self, inner: BatchSource) -> None:
        self.inner = inner
        self.rows: Array = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.inner)

    def subset(self, indices: Array) -> BatchSource:
        return RowSource(self.inner.subset(indices))

    def labels(self) -> Array | None:
        return self.inner.labels()

    def check_args(self, args: LoaderArgs) -> None:
        self.inner.check_args(args)

    def batches(self, args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        return self._noting(self.inner.batches(args, order), args, order)

    def epoch(self, args: LoaderArgs, seed: SeedTree) -> Iterator[tuple[Any, Any]]:
        order = seed.generator().permutation(len(self)) if args.shuffle else None
        return self._noting(self.inner.epoch(args, seed), args, order)  # the same order, and its loader's own seeds

    def _noting(self, drawn: Iterator[Any], args: LoaderArgs, order: Array | None) -> Iterator[tuple[Any, Any]]:
        order = np.arange(len(self)) if order is None else order
        for number, batch in enumerate(drawn):
            self.rows = order[number * args.batch_size : (number + 1) * args.batch_size]
            yield batch


class MixtureTrainer(MultiModelTrainer):
    """Trains M components side by side, each sample weighted by how well a component explains it.

    (Marfoq et al., Federated Multi-Task Learning under a Mixture of Distributions, NeurIPS 2021, section 3
    and algorithm 1.) With ``l(h_m(x_i), y_i)`` the loss of component m on sample i, a training is

        E-step   q_i(m) ~ pi_m * exp(-l(h_m(x_i), y_i)),   normalised over m
        M-step   pi_m = 1/n * sum_i q_i(m)
                 theta_m: gradient steps on 1/n * sum_i q_i(m) * l(h_m(x_i), y_i)

    and the node's model is ``sum_m pi_m * h_m(x)``. The weights ``pi`` stay at the node. The E-step evaluates each
    component once.

    Args:
        model_nums: M, the number of components.
        backend: The first component. It must `predict`, and its training step gets a `Weighted` target.
        data: As for `Trainer`, but not as a ready-made loader.
        sample_losses: Gives the loss of each sample, shape ``(batch,)``, of outputs and targets.
        ensemble_metrics: Gives metrics of the mixture's outputs and targets; the mean loss by default.
        state: What the node keeps between rounds; ``pi`` is in there.
        **options: As for `Trainer`.

    Attributes:
        weights: ``pi``, float64 of shape ``(M,)``.
        responsibilities: ``q`` of the last training, float64 of shape ``(samples, M)``.
    """

    def __init__(
        self,
        model_nums: int,
        backend: Backend,
        data: Any = None,
        *,
        sample_losses: Callable[[Any, Any], Any],
        ensemble_metrics: Callable[[Any, Any], Any] | None = None,
        state: StateBook | None = None,
        **options: Any,
    ) -> None:
        self._rows: dict[str, RowSource] = {}
        super().__init__(model_nums, "parallel", backend, data, **options)
        self.sample_losses = sample_losses
        self.ensemble_metrics = ensemble_metrics
        self.state = state if state is not None else StateBook()
        kept = self.state.arrays(SECTION)
        self.weights = np.full(model_nums, 1 / model_nums) if kept is None else np.array(kept["weights"])
        if self.weights.shape != (model_nums,):
            raise ParamsError(f"There are {self.weights.size} mixture weights for {model_nums} components.")
        self.responsibilities: Array = np.empty((0, model_nums))
        for slot in self.slots:
            evaluation = slot.hooks[Phase.EVAL]
            evaluation.replace("evaluate", Hook(self._ensemble, Trigger.ON_BATCH_FORWARD, (Phase.EVAL,)))
            if self.metrics:
                evaluation.remove("measure")  # the mixture is measured, not its components
            slot.backend.has_testing_step |= ensemble_metrics is not None
            for phase in TRAINING:
                hooks = slot.hooks[phase]
                if "forward" in hooks.names(Trigger.ON_BATCH_FORWARD):  # not where it is only for evaluation
                    at = (Trigger.ON_BATCH_FORWARD, TRAINING)
                    hooks.add(Hook(self._weigh, *at, name="weigh", plugin="personal", before=("forward",)))
                    hooks.add(Hook(self._unweigh, *at, name="unweigh", plugin="personal", after=("forward",)))

    def source(self, split: str) -> RowSource | None:
        """What batches are drawn from; it knows which samples a batch has."""
        found = super().source(split)
        if found is None:
            return None
        if split not in self._rows or self._rows[split].inner is not found:
            if hasattr(found, "loader"):
                raise UsageError("A mixture must know which samples a batch has.", cure="Give the data, not a loader.")
            self._rows[split] = RowSource(found)
        return self._rows[split]

    def train(self, split: str = "train", *, hooks: HookSet | None = None, with_params: bool = True) -> FitResult:
        """One E-step, and as many gradient steps of each component as the training arguments say."""
        self.expectation(split)
        result = super().train(split, hooks=hooks, with_params=with_params)
        self.state.keep(SECTION, {"weights": self.weights})
        return result

    def expectation(self, split: str = "train") -> None:
        """The E-step, and the new mixture weights: each component is evaluated once."""
        self._required(split)  # raises if there is no data
        source = self.source(split)
        assert source is not None
        losses = np.empty((len(source), self.model_nums))

        def look(ctx: Context) -> None:
            data, target = ctx.data_batch
            found = _array(self.sample_losses(ctx.backend.predict(data), target))
            if found.shape != (ctx.batch_size,):
                raise PlanError(
                    f"sample_losses must give one loss for each of {ctx.batch_size} samples, but gave an array of "
                    f"shape {found.shape}.", cure='E.g. reduction="none" in torch.',
                )  # fmt: skip
            losses[source.rows, ctx.cur_model_idx] = found

        cancel = [each for each in self.hooks[Phase.EVAL][Trigger.ON_BATCH_START] if each.name == "cancel"]
        hooks = HookSet(Phase.EVAL, [*cancel, Hook(look, Trigger.ON_BATCH_FORWARD, (Phase.EVAL,))])
        self.evaluate(split, hooks=hooks)
        with np.errstate(divide="ignore"):
            scores = np.log(self.weights) - losses
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        self.responsibilities = scores / scores.sum(axis=1, keepdims=True)
        self.weights = self.responsibilities.mean(axis=0)

    def _weigh(self, ctx: Context) -> None:
        data, target = ctx.data_batch
        rows = self._rows[ctx.cur_split].rows
        ctx.data_batch = (data, Weighted(target, self.responsibilities[rows, ctx.cur_model_idx]))

    def _unweigh(self, ctx: Context) -> None:
        data, weighted = ctx.data_batch
        ctx.data_batch = (data, weighted.target)

    def _ensemble(self, ctx: Context) -> None:
        """Adds up the outputs of the components; after the last one there are metrics."""
        data, target = ctx.data_batch
        index = ctx.cur_model_idx
        part = ctx.backend.predict(data) * float(self.weights[index])
        mixed = self.shared["mixture"] = self.shared["mixture"] + part if index else part
        if index == self.model_nums - 1:
            ctx.y_prob = mixed
            if self.metrics:
                self.measure(mixed, target)
            if self.ensemble_metrics is None:
                found: Any = {"loss": float(_array(self.sample_losses(mixed, target)).mean())}
            else:
                found = self.ensemble_metrics(mixed, target)
            ctx.batch_metrics = as_metrics(found)


class FedEM(TrainingPlan):
    """Base of training plans, ahead of the framework's: ``class MyPlan(FedEM, TorchTrainingPlan)``.

    ``init_model`` makes one component, and is called once for each: it should begin at random, as components that
    are equal stay equal. ``forward(data)`` gives its output, in which a mixture makes sense (probabilities rather
    than logits). There is no need for a ``training_step``; NumPy plans define `weighted_step` as well. Hooks reach
    the component at hand as ``ctx.backend``; ``self.model()`` is the first one. See `MixtureTrainer` for the equations.

    Attributes:
        components: How many components, >= 2.
    """

    components = 3
    _mixture: MixtureTrainer | None = None
    _values: list[Params] | None = None  # of each component, before there is a trainer

    # what a researcher writes ------------------------------------------------------------------------------

    @abstractmethod
    def sample_losses(self, output: Any, target: Any) -> Any:
        """The loss of each sample, shape ``(batch,)``, from what ``forward`` gave. Must not use ``self.model()``."""

    def ensemble_metrics(self, output: Any, target: Any) -> Any:
        """Metrics of the mixture's outputs, as ``testing_step`` returns them; the mean loss unless overridden."""
        return {"loss": self.sample_losses(output, target).mean()}

    def weighted_step(self, data: Any, target: Any, weights: Array) -> Any:
        """What ``training_step`` would return, with the loss ``mean(weights * losses)``."""
        losses = self.sample_losses(self.forward(data), target)  # type: ignore[attr-defined] # a framework's
        return (losses * losses.new_tensor(weights)).mean()

    # for the library ---------------------------------------------------------------------------------------

    @classmethod
    def default_dependencies(cls) -> list[str]:
        """Those of the framework, and this class."""
        return [*super().default_dependencies(), "from fedplug_personal import FedEM"]

    def training_step(self, data: Any, target: Weighted) -> Any:
        """The weighted loss of the component at hand."""
        return self.weighted_step(data, target.target, target.weights)

    def setup(self, setup: PlanSetup, *, with_optimizer: bool = True) -> None:
        """Build all components, one after the other."""
        if setup.training_args.keep_optimizer_state:
            raise PlanError(
                "A mixture has an optimizer for each component and cannot keep them between rounds.",
                cure="Leave out keep_optimizer_state.",
            )
        values: list[Params] = []
        total = 2
        while len(values) < total:
            super().setup(setup, with_optimizer=with_optimizer)
            total = count(self, "components", 2)
            tags = self.parameter_tags()
            if tags.local or tags.persistent:
                raise PlanError("A mixture shares all parameters of its components; remove the tags of some.")
            values.append(super().get_params())  # type: ignore[safe-super] # a framework's
        self._values = values

    def make_trainer(self, backend: Backend, data: Any, **options: Any) -> MixtureTrainer:
        """One model for each component."""
        params, self._values = self.get_params(), None
        self._mixture = MixtureTrainer(
            count(self, "components", 2), backend, data, sample_losses=self.sample_losses,
            ensemble_metrics=self.ensemble_metrics, state=self.node_state(), **options,
        )  # fmt: skip
        self._mixture.update(params)
        return self._mixture

    def get_params(self, allocate: Allocate | None = None) -> Params:
        """The parameters of all components, as ``0/weight``, ``1/weight``, ..."""
        if self._mixture is not None:
            found = self._mixture.get_params()
        else:
            parts = enumerate(self._values or [])
            found = Params.from_arrays({f"{i}/{name}": each[name] for i, each in parts for name in each})
        if allocate is None:
            return found
        return Params.build(found.spec, lambda name, out: np.copyto(out, found[name]), allocate(found.spec.nbytes))

    def set_params(self, params: Params) -> None:
        """Copy ``params`` into all components."""
        before = self.get_params()
        params.require(before.spec)
        if self._mixture is not None:
            self._mixture.update(params)
            return
        self._values = [_component(params, i) for i in range(len(self._values or []))]


def _component(params: Mapping[str, Array], index: int) -> Params:
    start = f"{index}/"
    return Params.from_arrays({name.removeprefix(start): params[name] for name in params if name.startswith(start)})


def _array(values: Any) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, np.float64)
