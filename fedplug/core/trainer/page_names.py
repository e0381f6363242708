"""Names of a context that the page of FederatedScope's Trainer has, and that lead elsewhere here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.trainer.meter import Meter
from fedplug.core.trainer.points import Phase

if TYPE_CHECKING:
    from fedplug.core.trainer.backend import Backend
    from fedplug.core.trainer.trainer import Trainer


class PageNames:
    """Properties of `Context` over its fields."""

    __slots__ = ()

    if TYPE_CHECKING:
        trainer: Trainer
        backend: Backend
        cur_split: str
        cur_phase: Phase | None
        y_true: Any
        y_prob: Any
        meter: Meter
        loop_plan: LoopPlan

    @property
    def model(self) -> Any:
        """The current model."""
        return self.backend.model

    @property
    def optimizer(self) -> Any:
        """The current model's optimizer."""
        return self.backend.optimizer

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        self.backend.optimizer = value

    @property
    def scheduler(self) -> Any:
        """The current model's scheduler, or None."""
        return self.backend.scheduler

    @property
    def criterion(self) -> Any:
        """The loss function, where the backend has one of its own."""
        return self.backend.criterion

    @property
    def device(self) -> Any:
        """Where the model lies."""
        return self.backend.device

    @property
    def models(self) -> list[Any]:
        """All models of the trainer."""
        return [backend.model for backend in self.trainer.backends()]

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers of all models."""
        return [backend.optimizer for backend in self.trainer.backends()]

    @property
    def cur_dataset(self) -> str:
        """Another name of cur_split."""
        return self.cur_split

    @property
    def label(self) -> Any:
        """Another name of y_true."""
        return self.y_true

    @property
    def pred(self) -> Any:
        """Another name of y_prob."""
        return self.y_prob

    @property
    def loss_batch_total(self) -> float:
        """Sum of the losses of this routine over all samples."""
        return self.meter.metric_total("loss") if self.cur_phase is Phase.EVAL else self.meter.total()

    @property
    def num_train_epoch(self) -> int:
        """Epochs of this training, or of the next."""
        return self._train_plan.epochs

    @property
    def num_train_batch(self) -> int:
        """Batches of an epoch of this training, or of the next."""
        return self._train_plan.batches

    @property
    def num_train_batch_last_epoch(self) -> int:
        """Batches of the last epoch of this training, or of the next."""
        return self._train_plan.last

    @property
    def num_total_train_batch(self) -> int:
        """Batches of this training, or of the next, in all."""
        return self._train_plan.total

    @property
    def _train_plan(self) -> LoopPlan:
        return self.trainer.make_plan(Phase.TRAIN) if self.cur_phase in (None, Phase.EVAL) else self.loop_plan
