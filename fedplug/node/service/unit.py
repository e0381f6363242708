"""The systemd unit of a node: for one installation, one user and one folder, and with no more rights than it needs."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedplug.core.errors import UsageError
from fedplug.node.policy.schema import Policy
from fedplug.node.store import NodeStore

STOP_SECONDS = 600
"""How long the training under way is given when the service is stopped."""

_SUPERVISOR = 2 * 2**30
"""Bytes for the supervisor, and for the parameters that it holds, beside what a training may use."""

_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))


def unit_text(store: NodeStore, policy: Policy, options: Sequence[str] = ()) -> str:
    """The unit, with a comment for each line that is not plain, and how to install it.

    Args:
        store: The node's store.
        policy: Its rules: where data may lie, memory, GPU.
        options: Options of ``fedplug node start``.

    Raises:
        UsageError: A path cannot stand in a unit.
    """
    folder = store.folder
    assert folder is not None
    user = pwd.getpwuid(folder.stat().st_uid).pw_name
    read = _read_places(store, policy)
    name = f"fedplug-{store.identity.node_id}"
    node = [sys.executable, "-m", "fedplug", "node", "--folder", str(folder)]
    lines = [
        *_head(name, store.identity.name, user),
        "[Service]",
        "Type=exec",
        f"User={user}",
        f"WorkingDirectory={_escaped(str(folder))}",
        f"ExecStart={_command([*node, 'start', *options])}",
        *_environment(),
        "# Ends in order: it takes no new training, and the one under way may end.",
        f"ExecStop={_command([*node, 'stop', '--timeout', str(STOP_SECONDS)])}",
        f"TimeoutStopSec={STOP_SECONDS + 30}",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=10",
        "",
        "# Files: all are read-only but the node's folder, whose files only this user may read.",
        "UMask=0077",
        "ProtectSystem=strict",
        f"ReadWritePaths={_path(folder)}",
        *_homes(folder, read),
        "# Scratch folders of trainings lie in a /tmp of their own, and are gone with the service.",
        "PrivateTmp=yes",
        *_devices(gpu=policy.resources.gpu),
        "",
        *_RIGHTS,
        "",
        *_memory(policy.resources.memory),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


_RIGHTS = (
    "# Rights: none that this user does not have anyway, and no way to get any.",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
    "# Processes of other users are not seen.",
    "ProtectProc=invisible",
    "# The network: outward to the researcher. Sockets of the machine itself (unix) connect the node's own processes.",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "# Trainings shut themselves in further: a network namespace of their own, for which an unprivileged process needs",
    "# one of users, Landlock and seccomp. These lines leave them the calls for it.",
    "RestrictNamespaces=user net",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp unshare",
    "SystemCallErrorNumber=EPERM",
    "# Not set: MemoryDenyWriteExecute, since libraries that compute compile code while they run.",
)


def _head(name: str, title: str, user: str) -> Iterator[str]:
    yield from (
        f"# {name}.service: a FedPlug node under systemd. To install it:",
        f"#   fedplug node start --service | sudo tee /etc/systemd/system/{name}.service",
        "#   sudo systemctl daemon-reload",
        f"#   sudo systemctl enable --now {name}",
        f"# Its log: journalctl -u {name} -f, or fedplug node logs --follow",
    )
    if user == "root":
        yield "# It runs as root, because root owns its folder. Better give the folder to a user of its own: chown -R"
    yield from (
        "",
        "[Unit]",
        f"Description=FedPlug node {_plain(title)}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
    )


def _environment() -> Iterator[str]:
    if plugins := os.environ.get("FEDPLUG_PLUGINS"):
        yield f"Environment={_quoted('FEDPLUG_PLUGINS=' + plugins)}"


def _read_places(store: NodeStore, policy: Policy) -> list[Path]:
    """What the node must read: its installation and its data."""
    places = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve(), *policy.data.roots]
    places += [Path(entry) for entry in sys.path if entry]
    places += [Path(record.path).parent for record in store.datasets()]
    found: list[Path] = []
    for place in sorted({each.absolute() for each in places if each.exists()}):
        if not any(place.is_relative_to(other) for other in found):
            found.append(place)
    return found


def _homes(folder: Path, read: Iterable[Path]) -> Iterator[str]:
    """Homes are hidden, but for what the node needs and lies in one."""
    needed = [place for place in read if _in_home(place) and not place.is_relative_to(folder)]
    if not needed and not _in_home(folder):
        yield "# Home folders cannot be read at all."
        yield "ProtectHome=yes"
        return
    yield "# Home folders look empty, but for what the node needs: its own folder, its installation, its data."
    yield "ProtectHome=tmpfs"
    if _in_home(folder):
        yield f"BindPaths={_bound(folder)}"
    for place in needed:
        yield f"BindReadOnlyPaths={_bound(place)}"


def _devices(*, gpu: bool) -> Iterator[str]:
    if gpu:
        yield "# Devices of the machine stay, since trainings may use a GPU (resources.gpu in node.toml)."
    else:
        yield "PrivateDevices=yes"


def _memory(most: int | None) -> Iterator[str]:
    if most is None:
        yield "# Memory has no limit: set resources.memory in node.toml, and print this unit again."
    else:
        yield "# Memory: what a training may use (resources.memory in node.toml), and 2 GiB for the node itself."
        yield f"MemoryMax={most + _SUPERVISOR}"


def _in_home(path: Path) -> bool:
    return any(path.is_relative_to(home) for home in _HOMES)


def _command(words: Iterable[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _path(path: Path) -> str:
    return _quoted(str(path))


def _quoted(text: str) -> str:
    """A word of a unit file (systemd.syntax): ``%`` is doubled, and quotes are set where needed.

    Raises:
        UsageError: It holds a sign that ends a line.
    """
    text = _escaped(text)
    if not set(text) & set(" \"'\\;"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """A value that takes no quotes."""
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot stand in a systemd unit.", cure="Use a name without such signs.")
    return text.replace("%", "%%")


def _bound(path: Path) -> str:
    """A path that is bound; there, a colon begins another one."""
    if ":" in str(path):
        raise UsageError(f"{path} cannot stand in a systemd unit: it holds a colon.", cure="Give it another name.")
    return _quoted(str(path))


def _plain(text: str) -> str:
    return _escaped(text).replace("\\", "/")
