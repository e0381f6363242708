"""Tags on a model's parameters: what never leaves a node, and what a node keeps between rounds.

======================  ==================================  ==========================================
tags of a parameter     in the global model and the update  a round begins with
======================  ==================================  ==========================================
none                    yes                                 the global value
``local``               no                                  what ``init_model`` gives
``local, persistent``   no                                  the node's own value of its last round
``persistent``          yes                                 the node's own value of its last round
======================  ==================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fedplug.core.errors import PlanError

LOCAL = "local"
PERSISTENT = "persistent"
TAGS = frozenset({LOCAL, PERSISTENT})


@dataclass(frozen=True)
class ParamTags:
    """The names of a model's parameters by what becomes of them, each in the model's order.

    Attributes:
        shared: Sent and aggregated.
        local: Never sent.
        persistent: Kept at the node between rounds.
    """

    shared: tuple[str, ...]
    local: tuple[str, ...]
    persistent: tuple[str, ...]

    @classmethod
    def read(cls, names: Mapping[str, bool], tag: Callable[[str], object], *, share_buffers: bool = True) -> ParamTags:
        """Ask for the tags of every parameter.

        Args:
            names: All names; whether each is a buffer (a running mean, a counter), which no optimizer moves.
            tag: ``tag_parameters`` of a plan.
            share_buffers: If not, buffers are local and persistent whatever ``tag`` says.

        Raises:
            PlanError: ``tag`` returned something else than a set of tags, or nothing is left to share.
        """
        tags = {name: _checked(name, tag(name)) for name in names}
        if not share_buffers:
            tags |= {name: TAGS for name, is_buffer in names.items() if is_buffer}
        found = cls(
            shared=tuple(name for name in names if LOCAL not in tags[name]),
            local=tuple(name for name in names if LOCAL in tags[name]),
            persistent=tuple(name for name in names if PERSISTENT in tags[name]),
        )
        if names and not found.shared:
            raise PlanError(
                "tag_parameters makes every parameter local, so there is nothing to aggregate.",
                cure="Leave some without the tag 'local'; matches(name, ...) helps to name the others.",
            )
        return found


def matches(name: str, *patterns: str) -> bool:
    """Whether a parameter's whole name is one of ``patterns``, or fits one as a glob.

    In a glob ``*`` stands for any characters, dots included, ``?`` for one, ``[ab]`` for one of these. Upper and
    lower case differ.

    Example:
        >>> matches("layers.1.weight", "layers.1.*"), matches("subnet.weight", "bn", "bn.*")
        (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _checked(name: str, given: object) -> frozenset[str]:
    tags = frozenset(given) if isinstance(given, set | frozenset | list | tuple) else None
    if tags is None or not tags <= TAGS:
        raise PlanError(
            f"tag_parameters({name!r}) must return a set of 'local' and 'persistent', but returned {given!r}.",
            cure='E.g. return {"local", "persistent"} if self.matches(name, "head.*") else set().',
        )
    return tags
