"""The points in time of a routine, the phases that a hook can belong to, and how long a value lives."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from fedplug.core.errors import UnknownNameError


class _Named(StrEnum):
    """A fixed choice of names that users write as text."""

    @classmethod
    def of(cls, value: str) -> Self:
        """The member called ``value``.

        Raises:
            UnknownNameError: There is none.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls(value)
        except ValueError:
            raise UnknownNameError(cls.__name__.lower(), str(value), [each.value for each in cls]) from None


class Trigger(_Named):
    """A point in time at which hooks are called.

    A routine fires, in this order::

        plan_routine                    the number of batches may still be changed: ctx.loop_plan
        on_fit_start
          for each epoch:   on_epoch_start
            for each batch:   on_batch_start, on_batch_forward, on_batch_backward (not in eval), on_batch_end
                            on_epoch_end
        on_fit_end
        on_exception                    only if something was raised: ctx.exception
        on_teardown                     always, in reverse order
    """

    PLAN_ROUTINE = "plan_routine"
    ON_FIT_START = "on_fit_start"
    ON_EPOCH_START = "on_epoch_start"
    ON_BATCH_START = "on_batch_start"
    ON_BATCH_FORWARD = "on_batch_forward"
    ON_BATCH_BACKWARD = "on_batch_backward"
    ON_BATCH_END = "on_batch_end"
    ON_EPOCH_END = "on_epoch_end"
    ON_FIT_END = "on_fit_end"
    ON_EXCEPTION = "on_exception"
    ON_TEARDOWN = "on_teardown"


class Phase(_Named):
    """What a routine is for; it picks the hooks. ``ctx.cur_mode`` says the same with ``eval`` told apart."""

    TRAIN = "train"
    EVAL = "eval"
    FINETUNE = "finetune"


class Scope(_Named):
    """How long a value of the context lives: until the end of the batch, epoch, routine, or trainer."""

    RUN = "run"
    ROUTINE = "routine"
    EPOCH = "epoch"
    BATCH = "batch"
