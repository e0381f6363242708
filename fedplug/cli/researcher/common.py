"""What the commands of ``fedplug researcher`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from fedplug.researcher.keys import ResearcherKeys


def keys_of(ctx: typer.Context) -> ResearcherKeys:
    """The keys in the folder that ``--folder`` names, or the usual one."""
    from fedplug.researcher.keys import ResearcherKeys

    return ResearcherKeys(ctx.obj and ctx.obj.expanduser().absolute())
