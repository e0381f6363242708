"""Components that learn from round to round, and must not forget it when a process ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedplug.core.errors import UsageError


class Stateful:
    """Base of aggregators, strategies and optimizers of the researcher; as it stands, one that remembers nothing.

    A breakpoint keeps what `state_dict` returns beside the arguments of the constructor, and a round that failed is
    undone by giving an aggregator or an optimizer its state of before.
    """

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, as plain data and `fedplug.Params`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            UsageError: The state holds something that this component does not know.
        """
        if state:
            raise UsageError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}.")
