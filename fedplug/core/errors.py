"""Every error FedPlug raises on purpose, as one tree.

FedplugError
├── UsageError                 the user asked for something that cannot be (bad argument, missing setting)
│   ├── TrainingArgsError      one or more training arguments are wrong; lists all of them
│   ├── SettingsError          several settings of an experiment are wrong or missing; lists all of them
│   ├── PolicyError            the file with a node's rules is wrong; lists all that is, with lines
│   └── UnknownNameError       a name is not known; carries the nearest known ones
├── PluginError                a plugin, hook or component is at fault; names it
│   └── ComponentConflictError a name is offered by more than one plugin
├── ParamsError                arrays that do not fit each other (names, shapes, dtypes)
├── CodecError                 bytes that are not what they claim to be
├── TransportError             the network, or an address, is at fault
│   ├── AddressError           the address cannot be used (malformed, in use, refused for safety)
│   └── ConnectionLostError    the other side is gone
├── KeysError                  a key is malformed or missing, or its file is not safe
├── RefusedError               a node's owner does not allow what was asked; carries a code
├── DatasetError               a data set is missing, ambiguous or not what its card says
├── StoreError                 a folder or a store, of a node or an experiment, cannot be used
│   ├── JournalError           a journal is damaged; names the record
│   └── DiskFullError          there is no room on the disk
├── BreakpointError            a breakpoint is missing, damaged, or cannot be gone on from
├── PlanError                  the training plan is at fault
│   ├── PlanSourceError        its source cannot be found, read or executed
│   └── PlanRunError           it raised while it ran on a node
├── EngineError                what runs the trainings of a simulation cannot go on, whatever the node
├── TrainingCancelledError     a training stopped because its task was given up
├── UpdateRejectedError        a reply is not acceptable; says why
└── RoundError                 a round could not be completed
    └── NoUpdatesError         there was nothing to aggregate

Each error says what went wrong, with whom, and what to do about it: ``message`` is the cause,
``cure`` the way out. ``str(error)`` shows both; the command line prints them and nothing else
unless it is called with ``--debug``.

`FedplugWarning` is the category of all warnings that FedPlug gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class FedplugWarning(UserWarning):
    """Something that a user may have meant, but probably has not; all goes on."""


class FedplugError(Exception):
    """Base of all FedPlug errors.

    Args:
        message: What went wrong, in one or two sentences.
        cure: What the reader can do about it. Empty where nothing can be done.
        node: Name or id of the node that is concerned, if any.
        plugin: Name of the plugin that is concerned, if any.
    """

    def __init__(self, message: str, *, cure: str = "", node: str = "", plugin: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.node = node
        self.plugin = plugin

    def __str__(self) -> str:
        return f"{self.message}\n{self.cure}" if self.cure else self.message

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in the place of its own traceback, which would be mostly about FedPlug's code."""
        from fedplug.core.error_places import short_traceback

        return short_traceback(self, self.message, self.cure, getattr(self, "details", ""))


class UsageError(FedplugError):
    """The user asked for something that cannot be."""


class TrainingArgsError(UsageError):
    """One or more training arguments are wrong.

    Args:
        problems: One sentence per wrong argument.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"training_args cannot be used:\n{listed}",
            cure="TrainingArgs.help() lists every key with its type, range and default.",
        )
        self.problems = tuple(problems)


class SettingsError(UsageError):
    """Several settings of an experiment are wrong or missing.

    Args:
        head: What cannot be done because of them.
        problems: One text per setting, with the setter that mends it.
    """

    def __init__(self, head: str, problems: Sequence[str]) -> None:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{head}\n{listed}")
        self.problems = tuple(problems)


class PolicyError(UsageError):
    """The file with the rules of a node is wrong.

    Args:
        file: Its name.
        problems: One sentence per problem, with the line.
    """

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"The rules in {file} cannot be used:\n{listed}", cure="Correct them, and look with: fedplug node check"
        )
        self.problems = tuple(problems)


class UnknownNameError(UsageError):
    """A name is not known.

    Args:
        kind: What the name stands for, e.g. ``"aggregator"``.
        name: The name that was asked for.
        known: The names that exist.
        cure: Replaces the suggestion of the nearest names.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, cure: str = "") -> None:
        choices = sorted(known)
        near = get_close_matches(name, choices, n=1, cutoff=0.6)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(choices) if choices else "none"
        super().__init__(f"There is no {kind} named {name!r}.", cure=cure or f"{hint}Known: {listed}.")
        self.kind = kind
        self.name = name
        self.known = tuple(choices)


class PluginError(FedplugError):
    """A plugin, one of its hooks or one of its components is at fault."""


class ComponentConflictError(PluginError):
    """More than one plugin offers a component of this name."""


class ParamsError(FedplugError):
    """Named arrays do not fit each other, or cannot be held as ``Params``."""


class CodecError(FedplugError):
    """Bytes are not what they claim to be: truncated, oversized, of another version, or nonsense."""


class TransportError(FedplugError):
    """The network, or an address, is at fault."""


class AddressError(TransportError):
    """An address cannot be used: malformed, in use, or refused for safety."""


class ConnectionLostError(TransportError):
    """The other side is gone."""


class KeysError(FedplugError):
    """A key is malformed, missing or not what it should be, or the file it lies in can be read by others."""


class RefusedError(FedplugError):
    """A node will not do what it was asked, by its owner's rules: approval, policy, budget, or a data set that changed.

    Args:
        message: What was refused and by which rule, in words for the researcher: no path, no row.
        code: What kind of refusal, e.g. ``"not-approved"``; it becomes `TaskFailure.code`.
        cure: What the researcher, or the owner, can do about it.
    """

    def __init__(self, message: str, *, code: str, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.code = code


class DatasetError(FedplugError):
    """A data set is missing, ambiguous, or not what its card says."""


class StoreError(FedplugError):
    """A folder or a store, of a node or an experiment, cannot be used."""


class JournalError(StoreError):
    """A journal is damaged: a record was changed, or is missing.

    Args:
        record: Number of the first record that is not as it was written; 0 if it is not about one.
    """

    def __init__(self, message: str, *, record: int = 0, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.record = record


class DiskFullError(StoreError):
    """There is no room on the disk. What was to be written can be written again when there is."""


class BreakpointError(FedplugError):
    """A breakpoint is missing, damaged, or cannot be gone on from."""


class PlanError(FedplugError):
    """The training plan is at fault."""


class PlanSourceError(PlanError):
    """The plan's source cannot be found, read or executed."""


class PlanRunError(PlanError):
    """The plan raised while it ran on a node.

    Args:
        details: The end of the traceback, as text, for ``--debug`` and logs.
    """

    def __init__(self, message: str, *, cure: str = "", node: str = "", plugin: str = "", details: str = "") -> None:
        super().__init__(message, cure=cure, node=node, plugin=plugin)
        self.details = details


class EngineError(FedplugError):
    """What runs the trainings of a simulation cannot go on: no node is to blame, and no training would succeed."""


class TrainingCancelledError(FedplugError):
    """A training stopped because its task was given up; nobody waits for its result."""


class UpdateRejectedError(FedplugError):
    """A reply is not acceptable: wrong names, shapes or dtypes, not finite, or an impossible sample count."""


class RoundError(FedplugError):
    """A round could not be completed.

    Args:
        details: What plans raised on nodes, with their tracebacks, as text, for ``--debug`` and logs.
    """

    def __init__(self, message: str, *, cure: str = "", node: str = "", plugin: str = "", details: str = "") -> None:
        super().__init__(message, cure=cure, node=node, plugin=plugin)
        self.details = details


class NoUpdatesError(RoundError):
    """There was nothing to aggregate."""
