"""What rounds have spent of the nodes' privacy, as the researcher reports it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.errors import UsageError
from fedplug.core.messages import TrainReply
from fedplug.core.rdp import converted

ORDERS: tuple[float, ...] = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64))
"""The orders at which Rényi divergence is bounded: those of Opacus."""


def gaussian_epsilon(history: Iterable[tuple[float, int]], delta: float) -> float:
    """The ``epsilon`` of Gaussian mechanisms that follow each other, none of them on a random sample.

    One of noise ``sigma`` (in units of the sensitivity) satisfies Rényi differential privacy of order ``a`` with
    ``a / (2 * sigma^2)`` (Mironov, Rényi Differential Privacy, CSF 2017, corollary 3); these add up (proposition 1),
    and are turned into ``(epsilon, delta)`` by `fedplug.core.rdp.converted`. This is what Opacus's ``RDPAccountant``
    gives at sample rate 1; a node's own account, which knows samples too, bounds them at whole orders only.

    Args:
        history: Pairs of sigma and number of times.
        delta: Between 0 and 1.

    Returns:
        Epsilon; infinite where a sigma is 0, or next to it, and 0 where nothing was done.
    """
    spent = [(sigma, times) for sigma, times in history if times]
    if not spent:
        return 0.0
    if any(sigma * sigma == 0 for sigma, _ in spent):
        return math.inf
    slope: float = sum(times / (2 * sigma * sigma) for sigma, times in spent)
    return max(0.0, min(converted(order * slope, order, delta) for order in ORDERS))


class Asked(NamedTuple):
    """What a node was asked in a round.

    Attributes:
        acked: The round whose state it was to go on from; -1 for none.
        digest: Of everything that was sent, see `fedplug.core.privacy.request_digest`; empty without local privacy.
    """

    acked: int
    digest: str = ""


@dataclass
class _Account:
    """One node.

    ``broken`` says why no epsilon can be stated, ``reported`` what the node itself has stated. ``last`` is its last
    round with local privacy, ``told`` stands for its update in it, ``open`` for one of a round that was not completed.
    """

    type: str = ""
    rounds: int = 0
    delta: float = 0.0
    sample_rate: float = 0.0
    broken: str = ""
    history: list[list[float]] = field(default_factory=list)
    reported: float | None = None
    last: int = -1
    told: str = ""
    open: str = ""

    def epsilon(self) -> float:
        if self.broken:
            return math.inf
        if self.type == "central":
            return gaussian_epsilon([(sigma, int(times)) for sigma, times in self.history], self.delta)
        return math.inf if self.reported is None else self.reported

    def lose(self, why: str) -> None:
        self.broken = self.broken or why


class PrivacyLedger:
    """Adds up, node by node, what the rounds of an experiment have spent.

    A central round counts for the nodes whose updates were aggregated: one Gaussian mechanism each, at sample rate 1.
    In a local round the node keeps the account, and reports it. A node that was in rounds of another type, or of
    none, has no finite epsilon any more.

    An experiment that goes back to an earlier breakpoint does not take back what it has published. A round that is
    run again with the same result tells nothing new, and counts once. One with another result counts once more where
    privacy is central; a node's own account has gone back with the experiment, and its epsilon cannot be stated.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._published: dict[str, list[str]] = {}  # round -> digests of what has come out of it
        self._count = 0

    @property
    def count(self) -> int:
        """How many times something was noted; of two ledgers of an experiment, the one with more knows more."""
        return self._count

    @property
    def is_used(self) -> bool:
        """Whether there was any privacy yet."""
        return any(account.type for account in self._accounts.values())

    def note(self, ctx: RoundContext, result: RoundResult, asked: Mapping[str, Asked]) -> RoundResult:
        """Count a round, once it is complete.

        Args:
            ctx: The round.
            result: What came out.
            asked: What its nodes were asked, by node id.

        Returns:
            The same with ``dp_epsilon`` (the largest of its nodes; left out where it is infinite), ``dp_delta`` and
            ``dp_sample_rate`` among its metrics, if the round was private.
        """
        args = ctx.training_args.get("dp_args")
        metrics = {name: value for name, value in result.metrics.items() if not name.startswith("dp_")}
        local = _is_local(args)
        known = self._published.setdefault(str(ctx.round), []) if args else []
        digest = ""  # the fingerprint of a large model takes long
        if args:
            digest = _digest(result.params.fingerprint(), *(_figures(each) for each in result.replies.items() if local))
        new = not args or digest not in known
        for node, reply in result.replies.items():
            account, told = self._account(node), ""
            if local:
                told = _update(asked[node], node, reply)
                _close(account, ctx.round, told)
            if new and not (told and (account.last, account.told) == (ctx.round, told)):
                _count(account, args, reply, ctx.round, asked[node].acked, again=bool(known))
                account.told = told
        if new:
            self._count += 1
            known.append(digest)
        if args and result.replies:
            accounts = [self._accounts[node] for node in result.replies]
            worst = max(account.epsilon() for account in accounts)
            if math.isfinite(worst):
                metrics["dp_epsilon"] = worst
            metrics["dp_delta"] = args["delta"]
            metrics["dp_sample_rate"] = max(account.sample_rate for account in accounts)
        return dataclasses.replace(result, metrics=metrics)

    def note_unfinished(self, ctx: RoundContext, replies: Mapping[str, TrainReply], asked: Mapping[str, Asked]) -> None:
        """Take down a round that was not completed, although updates had come in.

        Nothing was published; but the researcher, from whom local privacy protects, has had the updates. They cost
        nothing more if the round is tried again as it was, since the answers are the same to the bit.

        Args:
            ctx: The round.
            replies: Of the updates that have come, by node id.
            asked: What its nodes were asked, by node id.
        """
        args = ctx.training_args.get("dp_args")
        for node, reply in replies.items():
            account, told = self._account(node), _BARE
            if args and _is_local(args):
                told = _update(asked[node], node, reply)
                if (account.last, account.told) == (ctx.round, told):
                    continue
                _close(account, ctx.round, told)
                if account.last not in (-1, asked[node].acked):
                    account.lose(f"round {ctx.round + 1} was begun again, from before round {account.last + 1}")
                if account.type in ("", "local"):
                    account.type = "local"
                    _take(account, args, reply)
            if account.open != _BARE:
                account.open = told
            self._count += 1

    def _account(self, node: str) -> _Account:
        account = self._accounts.get(node)
        if account is None:
            account = self._accounts[node] = _Account()
        return account

    def report(self) -> dict[str, dict[str, Any]]:
        """``type``, ``epsilon``, ``delta``, ``sample_rate`` and ``rounds`` of each node that was in a private round.

        ``epsilon`` is ``math.inf`` where no bound can be stated; ``reason`` then says why. It is about what was
        published so far: a model that was set anew takes nothing of that back, and adds nothing before its first round.
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
                    found[node]["reason"] = account.broken or _NO_NOISE
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data without infinities."""
        return {
            "nodes": {node: dataclasses.asdict(account) for node, account in self._accounts.items()},
            "published": {number: list(digests) for number, digests in self._published.items()},
            "count": self._count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            UsageError: It is something else.
        """
        try:
            accounts = {str(node): _Account(**account) for node, account in state["nodes"].items()}
            published = {str(number): list(map(str, digests)) for number, digests in state["published"].items()}
            self._accounts, self._published, self._count = accounts, published, int(state["count"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"This is no account of privacy: {error!r}.") from None


_BARE = "unprotected"  # an update of an unfinished round that had no noise when the researcher got it
_NO_NOISE = "there was no noise (sigma 0)"


def _count(
    account: _Account, args: Mapping[str, Any] | None, reply: TrainReply, number: int, acked: int, *, again: bool
) -> None:
    """Count one round of one node; ``again``: another result of it is known already."""
    if not args:
        account.lose("it was in a round without differential privacy")
        return
    kind = str(args["type"])
    if account.type not in ("", kind):
        account.lose("it was in rounds of both types, whose guarantees do not add up")
    account.type = kind
    account.rounds += 1
    if kind == "central":
        account.delta, account.sample_rate = float(args["delta"]), 1.0
        sigma = float(args["sigma"])
        if account.history and account.history[-1][0] == sigma:
            account.history[-1][1] += 1
        else:
            account.history.append([sigma, 1])
        return
    if account.last not in (-1, acked):  # what the node states leaves out what it told in its last round
        if again:
            account.lose(f"round {number + 1} was run twice, with different results")
        elif acked < 0:
            account.lose("the model was set anew, and the node's account began again")
        else:
            account.lose(f"the node's account goes on from before round {account.last + 1}, which it leaves out")
    account.last = number
    _take(account, args, reply)


def _take(account: _Account, args: Mapping[str, Any], reply: TrainReply) -> None:
    """Take over what a node states."""
    account.delta = float(args["delta"])
    account.sample_rate = reply.metrics.get("dp_sample_rate", 1.0)
    account.reported = reply.metrics.get("dp_epsilon")
    if account.reported is None:
        lost = "the node's account was lost; see its log" if reply.state == "absent" else "the node states no epsilon"
        account.lose(lost if args["sigma"] else _NO_NOISE)


def _close(account: _Account, number: int, told: str) -> None:
    """Compare an update with the one that came in an unfinished round: if they are one, it has told nothing new."""
    if account.open and account.open != told:
        account.lose(f"its update came in a round that was not completed, and what came in round {number + 1} differs")
    elif account.open:
        account.open = ""


def _is_local(args: Mapping[str, Any] | None) -> bool:
    return bool(args) and args["type"] == "local"  # type: ignore[index] # it is not None


def _update(asked: Asked, node: str, reply: TrainReply) -> str:
    """Which update this is. A node's noise repeats: where question and figures are equal, so is the answer."""
    return _digest(asked.digest, _figures((node, reply)))


def _figures(item: tuple[str, TrainReply]) -> str:
    node, reply = item
    return repr((node, reply.steps, reply.sample_count, sorted(reply.metrics.items())))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
