"""What the owner of a node may tell a type of data sets: the same for the command line, questions and forms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetOption:
    """One thing that an owner may say.

    Attributes:
        label: What a form asks for, in a few words: ``"Table of demographics"``.
        hint: What it does, what a value looks like, and what is done without it; one line.
        renames: Of a loading plan, an option that gives names in the files those that plans use: what has these names,
            e.g. ``"modality"``. It is written ``NAME=NAME_HERE|OTHER_NAME_HERE; ...``. Empty: it is another option.
        rare: Whether hardly anybody needs it, so that nobody is asked for it.
    """

    label: str
    hint: str = ""
    renames: str = ""
    rare: bool = False
