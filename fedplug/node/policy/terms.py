"""What the rules have taken for granted about a training, to be held against what its plan really does."""

from __future__ import annotations

import msgspec

from fedplug.core.errors import RefusedError


class Terms(msgspec.Struct, frozen=True):
    """What was checked before the training, and is checked again in the worker when the plan has given its data.

    A plan may set the size of batches by itself, and may leave rows out. Where a rule depends on these, the plan must
    do as the request says. (A hostile plan can pretend to; what holds it back is that somebody has read it.)

    Attributes:
        batch_size: Samples per batch; 0: any.
        samples: Fewest samples of the training part; 0: any number.
        rule: The rule that needs it, for messages.
    """

    batch_size: int = 0
    samples: int = 0
    rule: str = ""

    def check(self, batch_size: int, samples: int) -> None:
        """Hold the terms against what the plan does.

        Raises:
            RefusedError: It does something else.
        """
        if self.batch_size and batch_size != self.batch_size:
            raise RefusedError(
                f"The plan draws batches of {batch_size}, but the request says {self.batch_size}, and the node's rule "
                f"{self.rule} was checked for that.",
                code="policy",
                cure='Give batch_size in training_args["loader_args"], and not to the DataManager.',
            )
        if samples < self.samples:
            raise RefusedError(
                f"The plan trains on {samples} samples, but the data set has {self.samples} to train on, and the "
                f"node's rule {self.rule} was checked for those.",
                code="policy",
                cure="Train on all rows of the data set.",
            )
