"""How many batches a routine makes, worked out before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from fedplug.core.data import LoaderArgs
from fedplug.core.errors import DatasetError
from fedplug.core.training_args import TrainingArgs


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """The batches of one routine: ``epochs`` passes of ``batches`` each, the last one cut after ``last``.

    Attributes:
        epochs: Number of passes, counting a last one that is cut short.
        batches: Batches of every pass but the last.
        last: Batches of the last pass, in [1, batches].
        total: Batches in all.
    """

    epochs: int
    batches: int
    last: int
    total: int

    @classmethod
    def make(cls, samples: int, loader: LoaderArgs, args: TrainingArgs) -> LoopPlan:
        """The batches of a training.

        ``num_updates`` (a number of batches) wins over ``epochs`` (a number of passes); ``batch_maxnum``
        bounds the batches of a pass in either case; ``dry_run`` makes it a single batch.

        Args:
            samples: Size of the training part of the data set.
            loader: How batches are drawn.
            args: What the researcher asked for.

        Raises:
            DatasetError: Not a single batch can be drawn.
        """
        batches = loader.batches_per_epoch(samples)
        if samples < 1:
            raise DatasetError(
                "There are no samples to train on.", cure="Check the data set; or lower test_ratio if it is high."
            )
        if batches < 1:
            raise DatasetError(
                f"{samples} samples make no batch of {loader.batch_size} with drop_last.",
                cure="Use a smaller batch_size, or drop_last=False.",
            )
        if args.dry_run:
            return cls(1, 1, 1, 1)
        batches = min(batches, args.batch_maxnum or batches)
        if args.num_updates is None:
            epochs = args.epochs or 1
            return cls(epochs, batches, batches, epochs * batches)
        steps = args.num_updates
        batches = min(batches, steps)
        return cls(-(-steps // batches), batches, steps % batches or batches, steps)

    @classmethod
    def one_pass(cls, samples: int, loader: LoaderArgs) -> LoopPlan:
        """The batches of an evaluation: each sample once, whatever ``drop_last`` and the local steps are.

        Raises:
            DatasetError: There is no sample.
        """
        if samples < 1:
            raise DatasetError("There are no samples to test on.", cure="Check the data set, or raise test_ratio.")
        batches = -(-samples // loader.batch_size)
        return cls(1, batches, batches, batches)

    def in_epoch(self, epoch: int) -> int:
        """Batches of pass number ``epoch``, counted from 0."""
        return self.last if epoch == self.epochs - 1 else self.batches
