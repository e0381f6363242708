"""The fields of a form, read with limits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl

from starlette.requests import Request

from fedplug.core.errors import FedplugError, UsageError
from fedplug.node.web.shield import MAX_BODY

_MOST_FIELDS = 20_000
_KIND = "application/x-www-form-urlencoded"


class Form:
    """What a form holds: every value is text, and a field may come more than once.

    Args:
        fields: Names and values in their order.
    """

    def __init__(self, fields: Sequence[tuple[str, str]] = ()) -> None:
        self._fields = tuple(fields)

    def text(self, name: str, default: str = "") -> str:
        """The value of a field, with the newlines of this system; ``default`` if it is not there."""
        found = self.all(name)
        return found[-1].replace("\r\n", "\n") if found else default

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for field, value in self._fields if field == name]

    def words(self, name: str) -> list[str]:
        """The words of a field that takes several, separated by commas."""
        return [word.strip() for word in self.text(name).split(",") if word.strip()]

    def starting(self, prefix: str) -> dict[str, str]:
        """The fields whose names begin with ``prefix``, by what follows it; empty ones are left out."""
        found = {name[len(prefix) :]: value.strip() for name, value in self._fields if name.startswith(prefix)}
        return {name: value for name, value in found.items() if value}

    def __contains__(self, name: str) -> bool:
        return any(field == name for field, _ in self._fields)


def mark_of(text: str) -> str:
    """What tells one state of something from another: a form carries that of what it was made of."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_mark(form: Form, now: str, what: str, *, page: str) -> None:
    """Make sure that a form overwrites nothing that its reader has not seen.

    Args:
        form: Its field ``mark`` is the `mark_of` what it was made of.
        now: What it would overwrite, as text.
        what: What that is.
        page: What it is changed on.

    Raises:
        UsageError: It is not what it was.
    """
    if form.text("mark") != mark_of(now):
        raise UsageError(
            f"{what} was changed by somebody else since you opened this page. Nothing was saved.",
            cure=f"Keep a copy of your text, open {page} again, and make your changes there.",
        )


def beside(problem: FedplugError | None, fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Beside which field of a form a problem is shown, by what it is about; nowhere if that cannot be told.

    Args:
        problem: The problem, if there is one.
        fields: Patterns that its message is searched for, each with a field. The first that is found counts.
    """
    if problem is None:
        return {}
    return next(({field: str(problem)} for words, field in fields if re.search(words, problem.message)), {})


async def read_form(request: Request) -> Form:
    """Read the form that a request carries.

    Raises:
        UsageError: It is too large, or not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
        raise UsageError("This is not a form of this page.", cure="Go back and use the buttons of the page.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise UsageError("This form is too large.", cure=f"It may hold {MAX_BODY // 1024:,} KiB.")
    try:
        text = bytes(body).decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise UsageError("This form cannot be read.", cure="Go back and send it again.") from None
    return Form(fields)
