"""The researcher's part in central differential privacy: refuse what cannot be protected, and add the noise.

McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, algorithm 1; the nodes have
clipped their updates already (`fedplug.core.privacy.clip_update`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fedplug.core.aggregator import Aggregator
from fedplug.core.context import RoundContext
from fedplug.core.errors import RoundError, UpdateRejectedError, UsageError
from fedplug.core.messages import TrainRequest
from fedplug.core.noise import NoiseStream, derive_key
from fedplug.core.params import Params
from fedplug.core.privacy import add_noise, check_clippable, privacy_args, update_norm
from fedplug.core.update import Update
from fedplug.researcher.refusals import blamed

_ROUNDING = 1e-9  # of a norm that the node has worked out by the same sums, perhaps on another processor


@dataclass(frozen=True)
class CentralPrivacy:
    """Central differential privacy in one round."""

    ctx: RoundContext
    start: Params
    aggregator: Aggregator
    sigma: float
    clip: float

    @classmethod
    def of(
        cls, ctx: RoundContext, start: Params, aggregator: Aggregator, requests: Iterable[TrainRequest]
    ) -> CentralPrivacy | None:
        """What a round needs; None if it asks for no central privacy.

        Args:
            ctx: The round.
            start: The global parameters.
            aggregator: The aggregator.
            requests: What the nodes will be sent.

        Raises:
            UsageError: This round cannot be protected, or not all of its nodes are told to.
        """
        asked = ctx.training_args.get("dp_args")
        for request in requests:
            if request.training_args.get("dp_args") != asked:
                raise UsageError(
                    f"Aggregator {type(aggregator).__name__} changes dp_args for node {request.key.node_id!r}.",
                    cure="Differential privacy is the same for all nodes: set it with set_training_args.",
                )
        args = privacy_args(ctx.training_args, "central")
        if args is None:
            return None
        check_clippable(start.spec)
        made = cls(ctx, start, aggregator, args["sigma"], args["clip"])
        made.share([Update(node, start, 1, 1) for node in ctx.node_ids])
        return made

    def check(self, update: Update) -> None:
        """Refuse an update that the node has not clipped.

        Raises:
            UpdateRejectedError: It is longer than it may be, or extra arrays came with it.
        """
        if update.aux:
            raise UpdateRejectedError("it sends extra arrays, which central differential privacy does not cover.")
        norm = update_norm(self.start, update.params)
        if not norm <= self.clip * (1 + _ROUNDING):
            raise UpdateRejectedError(f"its update has norm {norm:.6g}, but must be clipped to {self.clip:.6g}.")

    def share(self, updates: list[Update]) -> float:
        """How far a change of length 1 in one update can move the aggregate.

        Raises:
            UsageError: The aggregator cannot say.
        """
        with blamed("Aggregator", self.aggregator, "largest_share"):
            share = self.aggregator.largest_share(updates)
        if share is None or not (math.isfinite(share) and share > 0):
            raise UsageError(
                f"Aggregator {type(self.aggregator).__name__} cannot be used with central differential privacy: it "
                "does not say how far one node's update can move the result, so nobody knows how much noise is enough.",
                cure="Use FedAverage, or define largest_share in the aggregator; see fedplug.Aggregator.",
            )
        return float(share)

    def protect(self, params: Params, updates: Iterable[Update]) -> Params:
        """The aggregate with noise.

        The noise depends on the aggregate too: the same one gets the same noise, so a round that is repeated after a
        crash ends with the same bits, and another one never shares its noise with it.

        Args:
            params: The aggregate, which nobody else has seen.
            updates: What it was made of.

        Raises:
            RoundError: The noise is beyond what the parameters' dtype can hold.
        """
        std = self.sigma * self.clip * self.share(list(updates))
        if std == 0:
            return params
        key = derive_key(self.ctx.seed.child("dp").key, repr(std).encode(), params.fingerprint().encode())
        noisy = add_noise(params, std, NoiseStream(key))
        array = noisy.first_non_finite()
        if array:
            raise RoundError(
                f"The noise of standard deviation {std:.3g} makes {array!r} infinite.", cure="Lower sigma or clip."
            )
        return noisy
