"""The text of a new node's ``node.toml``: all rules with their defaults, explained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_TEXT = """\
# The rules of this node: what researchers may ask of it. Check the file with: fedplug node check
# A line that begins with "#" is a comment; remove the sign to make the rule behind it count.
# A running node takes changes over for the next training, except those under [resources], for which it is restarted.

[approval]
# "on": a training plan runs only after you have approved it: fedplug node plan list
# "off": every plan that a researcher sends runs.
mode = "{mode}"
# Whether the plans that ship with installed plugins count as approved.
default_plans = false

[data]
# Data sets must lie below one of these folders. An empty list: anywhere.
roots = {roots}

[training]
# Plugins that may take part in a training; without this rule all that are installed.
# plugins = ["torch", "scaffold"]
# Packages that training plans may import; without this rule all.
# imports = ["fedplug", "fedplug_torch", "torch", "numpy"]
# Names of arrays that may travel beside the model's parameters; "*" stands for any signs.
# extra_arrays = ["scaffold*"]
# Fewest rows to train on, after those for testing are held out: a model of few rows tells about each of them.
minimum_rows = 0
# Most rounds that a data set gives, over all researchers; without this rule any number.
# rounds = 1000

[training.arguments]
# What training arguments may be: a range, a value, or a list of values. A batch of one row, or a learning rate of
# almost nothing, lets the researcher compute rows from the update.
# batch_size = {{ min = 8, max = 1024 }}
# epochs = {{ max = 10 }}
# lr = {{ min = 1e-5 }}

[privacy]
# Whether every training must use differential privacy.
required = false
# What each data set may spend in all, over all researchers; without this rule it is counted but not limited.
# epsilon = 8.0
delta = 1e-5
# Whether privacy of type "central" counts: there the researcher adds the noise, and must be trusted to do so.
accept_central = false

[resources]
# Most memory (address space) of the process that trains.
# memory = "8 GiB"
# Most that a training may write into its scratch folder, which is emptied afterwards.
scratch = "2 GiB"
# Most that finished updates may take on the disk, for one researcher, until they are taken; then no more is trained.
updates = "16 GiB"
# Most processor threads.
# threads = 4
gpu = true
# Further processes that a training may start, e.g. those of PyTorch's DataLoader.
processes = 0
# A training that makes no progress for so long is given up.
progress_silence = "10 min"
# "best": shut training in as far as this system can, and say what it cannot. "required": do not start without all.
isolation = "best"

# Rules for a single data set, by its name; they replace those under [training].
# [datasets.patients]
# minimum_rows = 100
# rounds = 200
"""


def policy_text(*, approval: Literal["on", "off"] = "on", roots: Sequence[Path] = ()) -> str:
    """The text of a new ``node.toml``.

    Args:
        approval: Whether the owner approves training plans.
        roots: Absolute folders below which data sets must lie; none: anywhere.
    """
    listed = json.dumps([str(root) for root in roots], ensure_ascii=False)
    return _TEXT.format(mode=approval, roots=listed)
