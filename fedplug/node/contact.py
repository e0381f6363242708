"""The node's dealings with one researcher: a thread that follows the link and answers what can be answered at once.

So searches and cancellations are answered while a training runs. Nothing here runs plan code.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import msgspec

from fedplug.core.errors import CodecError, StoreError
from fedplug.core.link import (
    Connected,
    Disconnected,
    PlanAsked,
    ResearcherLink,
    SearchReceived,
    TaskCancelled,
    TaskReceived,
    UpdateCommitted,
)

if TYPE_CHECKING:
    from fedplug.node.runtime import Runtime

_log = logging.getLogger("fedplug.node")

_MOMENT = 0.5
"""Seconds without work after which is written down what was left for later."""


class Contact:
    """One researcher.

    Its address is what tells it from others: the node's owner has chosen it, while a name is what the other side says.

    Args:
        url: Its address.
        link: The way to it.
        node: What does the work.
        retry: Seconds between tries to connect, for messages.

    Attributes:
        connected: Set while the researcher has welcomed this node.
    """

    def __init__(self, url: str, link: ResearcherLink, node: Runtime, *, retry: float = 2.0) -> None:
        self.url = url
        self.link = link
        self.connected = threading.Event()
        self._node = node
        self._retry = retry
        self._stopping = False

    def stop(self) -> None:
        """Make `serve` return soon."""
        self._stopping = True
        self.link.wake()

    def serve(self) -> None:
        """Answer the researcher until `stop`."""
        while not self._stopping:
            event = self.link.next_event(_MOMENT if self._node.unsettled else None)
            match event:
                case None:
                    self._node.settle()
                case Connected():
                    self._on_connected(event)
                case Disconnected():
                    self._on_disconnected(event)
                case SearchReceived():
                    self._on_search(event)
                case PlanAsked():
                    self._on_plan(event)
                case TaskReceived():
                    self._node.submit(self, event)
                case TaskCancelled():
                    self._node.cancel(self, event.key, event.reason)
                case UpdateCommitted():
                    self._node.committed(self, event.key)
                    _log.debug("The researcher at %s has the update of %s.", self.url, event.key)

    def _on_connected(self, event: Connected) -> None:
        _log.info("Connected to researcher %s at %s.", event.researcher or "(unnamed)", self.url)
        self._node.audit.note_if_possible("connected", researcher=self.url, name=event.researcher)
        self._node.board.link(self.url, researcher=event.researcher, connection="connected", reason="")
        self.connected.set()

    def _on_disconnected(self, event: Disconnected) -> None:
        self.connected.clear()
        if event.refused:
            _log.error("The researcher at %s and this node do not work together: %s", self.url, event.reason)
            self._node.audit.note_if_possible("refused-by-researcher", researcher=self.url, reason=event.reason)
        else:
            why = event.reason.removeprefix(f"{self.url}: ").rstrip(".")
            reason = f" ({why})" if why else ""
            _log.info("No researcher at %s%s; trying again every %g s.", self.url, reason, self._retry)
        connection = "refused" if event.refused else "connecting"
        self._node.board.link(self.url, connection=connection, reason=event.reason)

    def _on_search(self, event: SearchReceived) -> None:
        """Say what there is. Data that cannot be described must not end the node."""
        try:
            cards = self._node.cards(event.tags)
            self._node.audit.note(
                "search-answered", actor=f"researcher:{self.url}", tags=event.tags, datasets=[c.name for c in cards]
            )
        except StoreError as error:
            _log.error("The researcher's search cannot be answered: %s", error)
            return
        try:
            self.link.answer_search(event.query, cards)
            return
        except CodecError as error:
            _log.warning("The researcher gets the data sets without their columns: %s", error.message)
        try:
            bare = [msgspec.structs.replace(card, columns=(), dtypes=(), description="") for card in cards]
            self.link.answer_search(event.query, bare)
        except CodecError as error:
            _log.error("The researcher's search cannot be answered: %s", error.message)

    def _on_plan(self, event: PlanAsked) -> None:
        """Take a plan in for the owner to look at, and say what they have decided."""
        try:
            answer = self._node.plan_answer(self, event)
        except StoreError as error:
            _log.error("The researcher's question about a plan cannot be answered: %s", error)
            return
        self.link.answer_plan(event.query, answer)
