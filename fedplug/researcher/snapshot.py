"""Everything that an experiment needs to go on in another process, as plain frozen data."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from fedplug.core.journal import Head
from fedplug.core.messages import DatasetCard
from fedplug.core.params import Params
from fedplug.researcher.round_log import LogPlace

VERSION = 1
"""Of the layout of a breakpoint; another one cannot be read."""


class ComponentRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An aggregator, a strategy or an optimizer, so far as it can be written down.

    Attributes:
        name: Under which an installed plugin offers its class, e.g. ``"scaffold:fedaverage"``; empty if none does.
        type: Its class, for messages.
        config: Its constructor's arguments; None if they could not be found out, and ``problem`` says why.
        problem: Why it cannot be made again by itself.
        state: What its ``state_dict`` returned, frozen (`fedplug.core.plain_state`).
    """

    name: str = ""
    type: str = ""
    config: dict[str, Any] | None = None
    problem: str = ""
    state: Any = None


class Acked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node's last update that was committed: its round, and `TrainReply.state_id` of it."""

    round: int
    state_id: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training plan: the fields of a `PlanBundle`, and its identity."""

    class_name: str
    source: str
    dependencies: tuple[str, ...]
    helpers: dict[str, str]
    hash: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``breakpoint.json``.

    Attributes:
        version: `VERSION` of the layout.
        fedplug: Version of FedPlug that wrote it.
        saved: When, in UTC (ISO 8601).
        experiment_id: The experiment; nodes know what they keep by it.
        folder: Name of the experiment's folder.
        seed: Root of all random streams; as text, since it may have any number of digits.
        round_current: Rounds that are complete.
        round_limit: The round limit; None for none.
        tags: The tags; None if the data was not chosen by tags.
        nodes: What the experiment is restricted to; None for all.
        training_data: Node id → card.
        node_names: Node id → name.
        plan: The training plan; None if there is none.
        model_args: Frozen.
        training_args: As plain data.
        wanted_tests: Tests that wait for a test ratio.
        aggregator: The aggregator.
        agg_optimizer: The researcher's optimizer, if there is one.
        strategy: The strategy.
        privacy: What the account of the nodes' privacy holds, frozen.
        acked: Node id → its last update that was committed.
        kept: Round → fingerprint of its global parameters, for those that were kept on disk.
        weights_matter: Whether the parameters are more than an initialisation.
        tensorboard: Whether TensorBoard logs are written.
        save_breakpoints: Whether a breakpoint is saved after each round.
        retain_full_history: Whether the parameters of all rounds are kept.
        transport: The address that the experiment was given, or empty; None if it was given an object.
        min_nodes: As for `Experiment`.
        connect_timeout: As for `Experiment`.
        history: What ``history`` holds but for the rounds, frozen.
        rounds: Where the rounds lie.
        journal: The last record of the journal; None if there was none.
        has_params: Whether there are global parameters yet; they are the first of the arrays.
        arrays: Number of `Params` that belong to it.
    """

    version: int
    fedplug: str
    saved: str
    experiment_id: str
    folder: str
    seed: str
    round_current: int
    round_limit: int | None
    tags: tuple[str, ...] | None
    nodes: tuple[str, ...] | None
    training_data: dict[str, DatasetCard]
    node_names: dict[str, str]
    plan: PlanRecord | None
    model_args: dict[str, Any]
    training_args: dict[str, Any]
    wanted_tests: tuple[str, ...]
    aggregator: ComponentRecord
    agg_optimizer: ComponentRecord | None
    strategy: ComponentRecord
    privacy: dict[str, Any]
    acked: dict[str, Acked]
    kept: dict[int, str]
    weights_matter: bool
    tensorboard: bool
    save_breakpoints: bool
    retain_full_history: bool
    transport: str | None
    min_nodes: int | None
    connect_timeout: float
    history: dict[str, Any]
    rounds: LogPlace
    has_params: bool
    arrays: int
    journal: Head | None = None


class Saved(msgspec.Struct, frozen=True):
    """A snapshot with its `Params`, and the lines of its rounds."""

    snapshot: Snapshot
    arrays: tuple[Params, ...]
    rounds: bytes = b""
