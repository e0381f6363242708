"""What the rules have taken for granted about a training, to be held against what its plan really does."""

from __future__ import annotations

import msgspec

from fedplug.core.data import LoaderArgs
from fedplug.core.errors import RefusedError
from fedplug.core.training_args import TrainingArgs
from fedplug.node.policy.arguments import argument_values
from fedplug.node.policy.schema import Range


class Limit(msgspec.Struct, frozen=True):
    """The values that a training argument may have.

    Attributes:
        name: The argument's name, as `argument_values` takes it.
        allowed: Its values.
        rule: The rule and where it stands, for messages.
    """

    name: str
    allowed: Range
    rule: str

    def check(self, args: TrainingArgs, loader: LoaderArgs, samples: int) -> None:
        """Hold the limit against a training.

        Raises:
            RefusedError: The argument has another value.
        """
        for value in argument_values(args, self.name, loader, samples):
            if value is not None and not self.allowed.allows(value):
                shown = f"{value:g}" if isinstance(value, float) else repr(value)
                raise RefusedError(
                    f"The node's rule {self.rule} refuses this: {self.name} must be {self.allowed.text}; the request "
                    f"comes to {shown}.",
                    code="policy",
                    cure="Change it in training_args, or in what the plan gives to its DataManager.",
                )


class Accounted(msgspec.Struct, frozen=True):
    """For which batches a data set was charged.

    Attributes:
        batch_size: Samples per batch.
        samples: Samples of the training part.
        rule: The rule that needs it, and where it stands, for messages.
    """

    batch_size: int
    samples: int
    rule: str


class Terms(msgspec.Struct, frozen=True):
    """What was checked before the training, and is checked again in the worker when the plan has given its data.

    A plan may set the size of batches by itself, may leave rows out, and may make several samples of one. Where a rule
    depends on these, what counts is what the plan does. (A hostile plan can pretend; what holds it back is that
    somebody has read it.)

    Attributes:
        limits: What training arguments may be.
        minimum_rows: Fewest samples to train on.
        rows_rule: The rule that says so, and where it stands.
        account: What the data set was charged for; None if the charge does not depend on the plan.
    """

    limits: tuple[Limit, ...] = ()
    minimum_rows: int = 0
    rows_rule: str = ""
    account: Accounted | None = None

    def check(self, args: TrainingArgs, loader: LoaderArgs, samples: int) -> None:
        """Hold the terms against what the plan does.

        Args:
            args: The training arguments.
            loader: How batches will be drawn.
            samples: Number of samples of the training part.

        Raises:
            RefusedError: It does something else.
        """
        if samples < self.minimum_rows:
            raise RefusedError(
                f"The plan trains on {samples} samples; the node's rule {self.rows_rule} needs at least "
                f"{self.minimum_rows}.",
                code="policy",
                cure="Train on all rows of the data set, and hold out fewer for testing (test_ratio).",
            )
        for limit in self.limits:
            limit.check(args, loader, samples)
        if self.account is not None:
            _check_account(self.account, loader.batch_size, samples)


def _check_account(account: Accounted, batch_size: int, samples: int) -> None:
    if batch_size != account.batch_size:
        raise RefusedError(
            f"The plan draws batches of {batch_size}, but the request says {account.batch_size}, and the data set was "
            f"charged for that ({account.rule}).",
            code="policy",
            cure='Give batch_size in training_args["loader_args"], and not to the DataManager.',
        )
    if samples != account.samples:
        raise RefusedError(
            f"The plan trains on {samples} samples, but the data set has {account.samples} to train on, and was "
            f"charged for those ({account.rule}).",
            code="policy",
            cure="Train on all rows of the data set, and make one sample of each.",
        )
