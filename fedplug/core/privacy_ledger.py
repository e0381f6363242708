"""What rounds have spent of the nodes' privacy, as the researcher reports it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import TrainReply

ORDERS: tuple[float, ...] = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64))
"""The orders at which Rényi divergence is bounded: those of Opacus."""


def gaussian_epsilon(history: Iterable[tuple[float, int]], delta: float) -> float:
    """The ``epsilon`` of Gaussian mechanisms that follow each other, none of them on a random sample.

    One of noise ``sigma`` (in units of the sensitivity) satisfies Rényi differential privacy of order ``a`` with
    ``a / (2 * sigma^2)`` (Mironov, Rényi Differential Privacy, CSF 2017, corollary 3); these add up (proposition 1),
    and are turned into ``(epsilon, delta)`` by Balle et al., Hypothesis Testing Interpretations and Rényi Differential
    Privacy, AISTATS 2020, theorem 21. This is what Opacus's ``RDPAccountant`` gives at sample rate 1.

    Args:
        history: Pairs of sigma and number of times.
        delta: Between 0 and 1.

    Returns:
        Epsilon; infinite where a sigma is 0, and 0 where nothing was done.
    """
    spent = [(sigma, times) for sigma, times in history if times]
    if not spent:
        return 0.0
    if any(sigma == 0 for sigma, _ in spent):
        return math.inf
    slope: float = sum(times / (2 * sigma * sigma) for sigma, times in spent)
    bounds = (a * slope - (math.log(delta) + math.log(a)) / (a - 1) + math.log((a - 1) / a) for a in ORDERS)
    return max(0.0, min(bounds))


@dataclass
class _Account:
    """One node: ``broken`` says why no epsilon can be stated, ``reported`` what the node itself has stated."""

    type: str = ""
    rounds: int = 0
    delta: float = 0.0
    sample_rate: float = 0.0
    broken: str = ""
    history: list[list[float]] = field(default_factory=list)
    reported: float | None = None

    def epsilon(self) -> float:
        if self.broken:
            return math.inf
        if self.type == "central":
            return gaussian_epsilon([(sigma, int(times)) for sigma, times in self.history], self.delta)
        return math.inf if self.reported is None else self.reported


class PrivacyLedger:
    """Adds up, node by node, what the rounds of an experiment have spent.

    A central round counts for the nodes whose updates were aggregated: one Gaussian mechanism each, at sample rate 1.
    In a local round the node keeps the account, and reports it. A node that was in rounds of another type, or of
    none, has no finite epsilon any more.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def note(self, ctx: RoundContext, result: RoundResult) -> RoundResult:
        """Count a round, once it is complete.

        Args:
            ctx: The round.
            result: What came out.

        Returns:
            The same with ``dp_epsilon`` (the largest of its nodes; left out where it is infinite), ``dp_delta`` and
            ``dp_sample_rate`` among its metrics, if the round was private.
        """
        args = ctx.training_args.get("dp_args")
        metrics = {name: value for name, value in result.metrics.items() if not name.startswith("dp_")}
        for node, reply in result.replies.items():
            self._note_node(self._accounts.setdefault(node, _Account()), args, reply)
        if args and result.replies:
            accounts = [self._accounts[node] for node in result.replies]
            worst = max(account.epsilon() for account in accounts)
            if math.isfinite(worst):
                metrics["dp_epsilon"] = worst
            metrics["dp_delta"] = args["delta"]
            metrics["dp_sample_rate"] = max(account.sample_rate for account in accounts)
        return dataclasses.replace(result, metrics=metrics)

    def report(self) -> dict[str, dict[str, Any]]:
        """``type``, ``epsilon``, ``delta``, ``sample_rate`` and ``rounds`` of each node that was in a private round.

        ``epsilon`` is ``math.inf`` where no bound can be stated; ``reason`` then says why.
        """
        found: dict[str, dict[str, Any]] = {}
        for node, account in sorted(self._accounts.items()):
            if account.type:
                epsilon = account.epsilon()
                found[node] = {
                    "type": account.type, "epsilon": epsilon, "delta": account.delta,
                    "sample_rate": account.sample_rate, "rounds": account.rounds,
                }  # fmt: skip
                if math.isinf(epsilon):
                    found[node]["reason"] = account.broken or "there was no noise (sigma 0), or the node states none"
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data without infinities."""
        return {"nodes": {node: dataclasses.asdict(account) for node, account in self._accounts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            UsageError: It is something else.
        """
        try:
            self._accounts = {str(node): _Account(**account) for node, account in state["nodes"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"This is no account of privacy: {error!r}.") from None

    @staticmethod
    def _note_node(account: _Account, args: Mapping[str, Any] | None, reply: TrainReply) -> None:
        if not args:
            account.broken = account.broken or "it was in a round without differential privacy"
            return
        kind = str(args["type"])
        if account.type not in ("", kind):
            account.broken = account.broken or "it was in rounds of both types, whose guarantees do not add up"
        if kind == "local" and account.rounds and reply.state == "none":
            account.broken = account.broken or "the model was set anew, and the node's account began again"
        account.type = kind
        account.rounds += 1
        account.delta = float(args["delta"])
        if kind == "central":
            account.sample_rate = 1.0
            sigma = float(args["sigma"])
            if account.history and account.history[-1][0] == sigma:
                account.history[-1][1] += 1
            else:
                account.history.append([sigma, 1])
        else:
            account.sample_rate = reply.metrics.get("dp_sample_rate", 1.0)
            account.reported = reply.metrics.get("dp_epsilon")
