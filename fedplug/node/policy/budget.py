"""What a data set has given so far, to all researchers together: rounds, and privacy."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fedplug.core.errors import RefusedError, UsageError
from fedplug.core.link import TaskReceived
from fedplug.core.messages import DatasetCard
from fedplug.core.privacy import request_digest
from fedplug.core.rdp import epsilon
from fedplug.core.trainer.loop_plan import LoopPlan
from fedplug.core.training_args import TrainingArgs
from fedplug.node.policy.arguments import loader_of
from fedplug.node.policy.rules import effective_rules, training_samples
from fedplug.node.policy.schema import Policy
from fedplug.node.policy.terms import Accounted
from fedplug.node.store import NodeStore


class Charge(NamedTuple):
    """What one training costs its data set.

    Attributes:
        privacy: ``"local"``, ``"central"`` or ``"none"``.
        sigma: Standard deviation of the noise, in units of the clipping bound.
        rate: Probability with which a sample takes part in a step.
        steps: Number of steps.
    """

    privacy: str
    sigma: float
    rate: float
    steps: int


@dataclass(frozen=True)
class Account:
    """What a data set has given.

    Attributes:
        dataset: Its name.
        rounds: Trainings that were let through.
        epsilon: Epsilon of all of them together; infinite if one had no noise, 0 if there was none.
        delta: The delta of that epsilon.
        most_rounds: The owner's limit; None if there is none.
        most_epsilon: Likewise.
    """

    dataset: str
    rounds: int
    epsilon: float
    delta: float
    most_rounds: int | None
    most_epsilon: float | None

    def cells(self) -> tuple[str, str, str]:
        """Name, rounds and epsilon for a table."""
        rounds = f"{self.rounds}" + ("" if self.most_rounds is None else f" of {self.most_rounds}")
        spent = "no bound: trained without noise" if math.isinf(self.epsilon) else f"{self.epsilon:.4g}"
        return self.dataset, rounds, spent + ("" if self.most_epsilon is None else f" of {self.most_epsilon:g}")

    def plain(self) -> dict[str, Any]:
        """As plain data; an epsilon without bound is None."""
        return {
            "dataset": self.dataset, "rounds": self.rounds, "most_rounds": self.most_rounds,
            "epsilon": None if math.isinf(self.epsilon) else self.epsilon, "delta": self.delta,
            "most_epsilon": self.most_epsilon,
        }  # fmt: skip


class Budget:
    """The accounts in a node's store.

    Args:
        store: The node's store.
        policy: The rules.
    """

    def __init__(self, store: NodeStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def charge(
        self, task: TaskReceived, card: DatasetCard, begin: Callable[[], object] = lambda: None
    ) -> Accounted | None:
        """Charge a training to its data set before its first batch; where the owner has set a limit, on disk.

        It stays charged whatever becomes of the training. The same request again costs nothing: it is answered with
        the same bits. Another attempt at its round costs again, and so does another request under the same key. A
        request that only tests costs nothing: it reads held-out rows, and trains on none.

        Args:
            task: The request with its plan.
            card: The data set that it names.
            begin: Called once, when it may be charged. What it writes to the store is there together with the charge;
                if it raises, nothing is charged.

        Returns:
            The batches that were charged for, to which the plan must keep; None if the charge does not depend on them.

        Raises:
            RefusedError: The data set would give more than its owner allows (code ``"budget"``).
        """
        if not task.request.train:
            with self._store.transaction(flush=False):
                begin()
            return None
        args = TrainingArgs.of_request(task.request.training_args)
        charge = cost(args, training_samples(card, args))
        rules, keys = effective_rules(self._policy, card.name)
        which = (str(task.request.key), _digest(task))
        limited = rules.rounds is not None or self._policy.privacy.epsilon is not None
        # Where nothing is limited, it is on disk with the entry of the audit log before which no update leaves.
        with self._store.transaction(flush=limited) as db:
            known = "SELECT 1 FROM charges WHERE dataset = ? AND task = ? AND request = ?"
            if db.execute(known, (card.name, *which)).fetchone() is None:
                if limited:
                    query = "SELECT privacy, sigma, rate, steps FROM charges WHERE dataset = ?"
                    before = [Charge(*row) for row in db.execute(query, (card.name,))]
                    self._require_rounds(card.name, len(before), rules.rounds, keys["rounds"])
                    self._require_epsilon(card.name, before, charge)
                db.execute(
                    "INSERT INTO charges (dataset, task, request, charged, privacy, sigma, rate, steps) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (card.name, *which, datetime.now(UTC).isoformat(timespec="seconds"), *charge),
                )
            begin()
        if self._policy.privacy.epsilon is None or charge.privacy != "local":
            return None
        return Accounted(loader_of(args).batch_size, training_samples(card, args), self._rule("privacy.epsilon"))

    def report(self) -> list[Account]:
        """The accounts of all data sets that have given something or are there to, by name."""
        found: dict[str, list[Charge]] = {record.name: [] for record in self._store.datasets()}
        for name, *rest in self._store.read("SELECT dataset, privacy, sigma, rate, steps FROM charges ORDER BY number"):
            found.setdefault(name, []).append(Charge(*rest))
        rules = self._policy.privacy
        return [
            Account(
                name, len(charges), self._spent(charges), rules.delta,
                effective_rules(self._policy, name)[0].rounds, rules.epsilon,
            )
            for name, charges in sorted(found.items())
        ]  # fmt: skip

    def _require_rounds(self, name: str, given: int, most: int | None, key: str) -> None:
        if most is not None and given >= most:
            raise RefusedError(
                f"Data set {name!r} has given {given} rounds, and may give {most} ({self._rule(key)}).",
                code="budget",
                cure="The node's owner can allow more.",
            )

    def _require_epsilon(self, name: str, before: Iterable[Charge], charge: Charge) -> None:
        most = self._policy.privacy.epsilon
        if most is None:
            return
        spent, after = self._spent(before), self._spent([*before, charge])
        if after <= most:
            return
        delta = f"(delta {self._policy.privacy.delta:g})"
        if math.isinf(self._spent([charge])):
            what = {
                "none": "This training has no differential privacy",
                "central": "In this training the researcher adds the noise, which does not count here",
                "local": "This training has no noise",
            }[charge.privacy]
            text = f"{what}, but data set {name!r} may spend no more than epsilon {most:g} {delta}"
        else:
            text = (
                f"Data set {name!r} has spent epsilon {spent:.4g} of {most:g} {delta}; this round would bring it to "
                f"{after:.4g}"
            )
        raise RefusedError(
            f"{text} ({self._rule('privacy.epsilon')}).",
            code="budget",
            cure="More noise (sigma), fewer steps or smaller batches spend less; the node's owner can allow more.",
        )

    def _spent(self, charges: Iterable[Charge]) -> float:
        counted = []
        for each in charges:
            protects = each.privacy == "local" or (each.privacy == "central" and self._policy.privacy.accept_central)
            counted.append((each.sigma if protects else 0.0, each.rate, each.steps))
        return epsilon(counted, self._policy.privacy.delta)

    def _rule(self, key: str) -> str:
        place = self._policy.where(key)
        return f"rule {key}" + (f", {place}" if place else "")


def _digest(task: TaskReceived) -> str:
    """All that a researcher decides about a training; of what cannot be compared, each is another one."""
    try:
        return request_digest(task.request, task.plan.hash, task.params, task.aux)
    except UsageError:  # arguments that are no plain data, which only a script's own node is given
        return secrets.token_hex(32)


def cost(args: TrainingArgs, samples: int) -> Charge:
    """What a training costs.

    Local privacy: each step is a sampled Gaussian mechanism where samples are drawn by chance (``poisson``), and each
    pass a Gaussian mechanism where they are not: it takes each sample once. Central privacy: one Gaussian mechanism.
    Without privacy: one step without noise.

    Args:
        args: Checked training arguments.
        samples: Number of samples of the training part.
    """
    asked = args.dp_args
    if not asked or samples < 1:
        return Charge("none", 0.0, 1.0, 1)
    if asked["type"] == "central":
        return Charge("central", float(asked["sigma"]), 1.0, 1)
    loader = loader_of(args)
    plan = LoopPlan.make(samples, loader, args)
    if asked["poisson"]:
        return Charge("local", float(asked["sigma"]), min(1.0, loader.batch_size / samples), plan.total)
    return Charge("local", float(asked["sigma"]), 1.0, plan.epochs)
