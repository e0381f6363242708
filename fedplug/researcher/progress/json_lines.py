"""Progress for scripts: one JSON object a line. The keys are listed in docs/progress-and-tensorboard.md and stay."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.messages import LogLine, NodeInfo, Progress, TrainReply
from fedplug.core.monitor import Monitor
from fedplug.researcher.progress.board import Clock
from fedplug.researcher.progress.text import put


class JsonProgress(Monitor):
    """Every event as a line of JSON. Rounds count from 0, as in the Python interface.

    Numbers that JSON does not know (NaN, infinity) become null. All characters beyond ASCII are escaped, so
    a name from the network can neither break a line nor a terminal.

    Args:
        file: Where to write; None for what is standard output at the time.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
    """

    def __init__(self, file: IO[str] | None = None, *, clock: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self._file = file
        self._clock = clock
        self._wall = wall
        self._begin = clock()
        self._names: dict[str, str] = {}

    def message(self, text: str) -> None:
        """Event ``message``."""
        self._put("message", text=text)

    def started(self, experiment_path: Path, nodes: Mapping[str, NodeInfo], rounds: int) -> None:
        """Event ``started``; its time is the zero of ``elapsed``."""
        self._begin = self._clock()
        self._names = {node_id: info.name for node_id, info in nodes.items()}
        listed = [{"id": node_id, "name": name} for node_id, name in self._names.items()]
        self._put("started", experiment=str(experiment_path), rounds=rounds or None, nodes=listed)

    def round_started(self, ctx: RoundContext, node_ids: Sequence[str]) -> None:
        """Event ``round_started``."""
        self._put("round_started", round=ctx.round, nodes=list(node_ids))

    def progress(self, node_id: str, progress: Progress) -> None:
        """Event ``progress``, each of them: a script can choose for itself."""
        self._put(
            "progress",
            round=progress.key.round,
            **self._who(node_id),
            phase=progress.phase,
            step=progress.step,
            total_steps=progress.total_steps or None,
            epoch=progress.epoch,
            samples=progress.samples,
            seconds=progress.seconds,
            metrics=progress.metrics,
        )

    def log(self, node_id: str, line: LogLine) -> None:
        """Event ``log``."""
        number = None if line.key is None else line.key.round
        self._put("log", round=number, **self._who(node_id), level=line.level, text=line.text)

    def replied(self, node_id: str, reply: TrainReply) -> None:
        """Event ``replied``."""
        self._put(
            "replied",
            round=reply.key.round,
            **self._who(node_id),
            samples=reply.sample_count,
            steps=reply.steps,
            metrics=reply.metrics,
            timing=reply.timing,
        )

    def dropped(self, node_id: str, reason: str) -> None:
        """Event ``dropped``."""
        self._put("dropped", **self._who(node_id), reason=reason)

    def back(self, node_id: str) -> None:
        """Event ``back``."""
        self._put("back", **self._who(node_id))

    def asked(self, node_id: str, *, again: bool) -> None:
        """Event ``asked``."""
        self._put("asked", **self._who(node_id), again=again)

    def round_ended(self, ctx: RoundContext, result: RoundResult) -> None:
        """Event ``round_ended``."""
        self._put(
            "round_ended",
            round=ctx.round,
            nodes=sorted(result.replies),
            dropped=dict(result.dropped),
            metrics=dict(result.metrics),
            seconds=result.seconds,
            traffic=dict(result.traffic),
        )

    def tested(self, ctx: RoundContext, result: RoundResult) -> None:
        """Event ``tested``."""
        nodes, dropped = sorted(result.replies), dict(result.dropped)
        self._put("tested", round=ctx.round, nodes=nodes, dropped=dropped, metrics=dict(result.metrics))

    def stopped(self, rounds_done: int, error: BaseException | None) -> None:
        """Event ``stopped``."""
        what = None if error is None else {"type": type(error).__name__, "message": str(error)}
        self._put("stopped", rounds_done=rounds_done, ok=error is None, error=what)

    def _who(self, node_id: str) -> dict[str, str]:
        return {"node": node_id, "name": self._names.get(node_id, "")}

    def _put(self, event: str, **facts: Any) -> None:
        when = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        line = {"event": event, "time": when, "elapsed": round(self._clock() - self._begin, 3), **facts}
        put(self._file if self._file is not None else sys.stdout, json.dumps(_finite(line), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
