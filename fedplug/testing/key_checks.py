"""What a transport with keys must do: prove who is who, and talk to nobody else. Those without keys are skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from fedplug.core.errors import ConnectionLostError, KeysError
from fedplug.core.keys import KeyPair, Refusal
from fedplug.core.transport import Channel, Closed, Frame, Item, Listener, Opened, TransportOptions, TurnedAway
from fedplug.testing import transport_case
from fedplug.testing.registry import Check, LawBrokenError, law
from fedplug.testing.transport_case import Line, TransportCase, expect, greet, push, refused, same, show


def check_keys_prove(case: TransportCase) -> None:
    """With keys both ends know whose messages they get, and messages of all sizes arrive unchanged."""
    case = case.with_keys()
    node, researcher = case.for_node.keys, case.options.keys
    with ExitStack() as stack:
        line = Line(case, stack)
        for size in (0, 100, 1024 * 1024):
            body = bytes(range(256)) * (size // 256)
            push(line.channel, lambda body=body: line.channel.send(b"up", body))  # type: ignore[misc]
            frame = expect(line.listener, Frame)
            same(frame, b"up", body, "a frame of the node")
            _same_key(frame.key, node, "A frame at the researcher")
            push(line.listener, lambda body=body: line.listener.send(line.peer, b"down", body))  # type: ignore[misc]
            frame = expect(line.channel, Frame)
            same(frame, b"down", body, "a frame of the researcher")
            _same_key(frame.key, researcher, "A frame at the node")
            del frame


def check_keys_at_opening(case: TransportCase) -> None:
    """`Opened` says whose connection it is, at both ends."""
    case = case.with_keys()
    with _open(case, case.for_node) as (listener, channel):
        _same_key(expect(channel, Opened, serve=listener).key, case.options.keys, "Opened at the node")
        push(channel, lambda: channel.send(b"greetings"))
        item = listener.receive(transport_case.PATIENCE)
        if not isinstance(item, Opened | Frame):
            raise LawBrokenError(f"A node connected and sent a frame, but {item and show(item)} came.")
        _same_key(item.key, case.for_node.keys, f"{type(item).__name__} at the researcher")


def check_unknown_key(case: TransportCase) -> None:
    """A key that is not enrolled does not get in, and both ends are told."""
    case = case.with_keys()
    stranger = case.make().new_keys()
    away = _turned_away(case, replace(case.for_node, keys=stranger), Refusal.UNKNOWN_KEY)
    _same_key(away.key, stranger, "TurnedAway")


def check_wrong_researcher(case: TransportCase) -> None:
    """A node does not talk to a researcher who has not the key that it trusts, and both ends are told."""
    case = case.with_keys()
    other = case.make().new_keys()
    _turned_away(case, replace(case.for_node, peer_key=other.public), Refusal.WRONG_KEY)


def check_plaintext_node(case: TransportCase) -> None:
    """A node without keys does not get in where there are keys, and both ends are told."""
    _turned_away(case.with_keys(), _plain(case.for_node), Refusal.PLAINTEXT_NODE)


def check_plaintext_researcher(case: TransportCase) -> None:
    """A node with keys does not talk to a researcher without, and both ends are told."""
    keyed = case.with_keys()
    _turned_away(replace(keyed, options=_plain(case.options)), keyed.for_node, Refusal.PLAINTEXT_RESEARCHER)


def check_denied(case: TransportCase) -> None:
    """A key that is denied is out at once: nothing more is taken from it, and it does not get in again."""
    case, enrolled = _list_of(case.with_keys())
    with ExitStack() as stack:
        line = Line(case, stack)
        push(line.channel, lambda: line.channel.send(b"before"))
        same(expect(line.listener, Frame), b"before", b"", "a frame of an enrolled key")
        denied = dict(enrolled)
        enrolled.clear()
        push(line.channel, lambda: line.channel.send(b"after"))
        closed = expect(line.listener, Closed)
        if closed.peer != line.peer or closed.refusal is not Refusal.UNKNOWN_KEY:
            raise LawBrokenError(f"A key was denied, and its next message ended in {closed}.")
        refused(
            lambda: line.listener.send(line.peer, b"x"), ConnectionLostError, "A frame for a key that has been denied"
        )
        again = stack.enter_context(line.transport.connect(line.listener.address, case.for_node))
        _refused_at_node(line.listener, again, Refusal.UNKNOWN_KEY)
        enrolled.update(denied)
        greet(line.listener, stack.enter_context(line.transport.connect(line.listener.address, case.for_node)))


def check_denied_hears_nothing(case: TransportCase) -> None:
    """Nothing is sent to a key that was denied, even if it has said nothing since."""
    case, enrolled = _list_of(case.with_keys())
    with ExitStack() as stack:
        line = Line(case, stack)
        enrolled.clear()
        refused(
            lambda: line.listener.send(line.peer, b"x"), ConnectionLostError, "A frame for a key that has been denied"
        )
        if (closed := expect(line.listener, Closed)).peer != line.peer:
            raise LawBrokenError(f"A key was denied, and the connection that was closed is {closed}.")


def check_enrolment_fails(case: TransportCase) -> None:
    """While it cannot be looked up who is enrolled, nobody gets in; afterwards all goes on."""
    case = case.with_keys()
    enrolled, broken = case.options.enrolled, [True]

    def looked_up(key: str) -> str:
        if broken[0] or enrolled is None:
            raise OSError("no such file")
        return enrolled(key)

    case = replace(case, options=replace(case.options, enrolled=looked_up))
    with ExitStack() as stack:
        transport = case.make()
        listener = stack.enter_context(transport.listen(case.make_url(), case.options))
        first = stack.enter_context(transport.connect(listener.address, case.for_node))
        _refused_at_node(listener, first, Refusal.NO_ANSWER)
        broken[0] = False
        greet(listener, stack.enter_context(transport.connect(listener.address, case.for_node)))


def check_keys_belong_together(case: TransportCase) -> None:
    """Half of what keys need is refused with `KeysError`, and so is a secret of another pair."""
    keyed = case.with_keys()
    transport = case.make()
    mine, other = transport.new_keys(), transport.new_keys()
    mixed = KeyPair(mine.public, other.secret)
    listens = [
        (replace(keyed.options, enrolled=None), "Listening with keys, but without `enrolled`"),
        (replace(keyed.options, keys=None), "Listening with `enrolled`, but without keys"),
        (replace(keyed.options, keys=mixed), "Listening with a secret of another pair"),
    ]
    connects = [
        (replace(keyed.for_node, peer_key=""), "Connecting with keys, but without the researcher's"),
        (replace(keyed.for_node, keys=None), "Connecting with the researcher's key, but without keys"),
        (replace(keyed.for_node, keys=mixed), "Connecting with a secret of another pair"),
    ]
    for options, what in listens:
        refused(lambda options=options: transport.listen(case.make_url(), options), KeysError, what)  # type: ignore[misc]
    with transport.listen(case.make_url(), keyed.options) as listener:
        for options, what in connects:
            refused(
                lambda options=options: transport.connect(listener.address, options),  # type: ignore[misc]
                KeysError,
                what,
            )


@contextmanager
def _open(case: TransportCase, node: TransportOptions) -> Iterator[tuple[Listener, Channel]]:
    transport = case.make()
    with (
        transport.listen(case.make_url(), case.options) as listener,
        transport.connect(listener.address, node) as channel,
    ):
        yield listener, channel


def _turned_away(case: TransportCase, node: TransportOptions, refusal: Refusal) -> TurnedAway:
    """Require a node not to get in, and both ends to be told why. Returns what the researcher was told."""
    with _open(case, node) as (listener, channel):
        return _refused_at_node(listener, channel, refusal)


def _refused_at_node(listener: Listener, channel: Channel, refusal: Refusal) -> TurnedAway:
    """Wait until the node and the researcher have heard that they will not talk."""
    until = time.monotonic() + transport_case.PATIENCE
    closed: Closed | None = None
    away: TurnedAway | None = None
    while closed is None or away is None:
        if time.monotonic() > until:
            raise LawBrokenError(f"{refusal} came up; told of it were: node {closed}, researcher {away}.")
        item: Item | None = listener.receive(0.005)
        if isinstance(item, TurnedAway) and item.refusal is refusal:
            away = item
        elif item is not None:
            raise LawBrokenError(f"{refusal} came up, and the researcher was told: {show(item)}.")
        item = channel.receive(0.005) if closed is None else None
        if isinstance(item, Closed) and item.refusal is refusal and item.reason:
            closed = item
        elif item is not None:
            raise LawBrokenError(f"{refusal} came up, and the node was told: {show(item)}.")
    return away


def _list_of(case: TransportCase) -> tuple[TransportCase, dict[str, str]]:
    """A case with keys, and the list of who is enrolled in it, which can be changed."""
    enrolled = {case.for_node.keys.public: "n1"} if case.for_node.keys else {}
    return replace(case, options=replace(case.options, enrolled=lambda key: enrolled.get(key, ""))), enrolled


def _plain(options: TransportOptions) -> TransportOptions:
    return replace(options, keys=None, peer_key="", enrolled=None)


def _same_key(key: str, keys: KeyPair | None, what: str) -> None:
    if keys is None or key != keys.public:
        raise LawBrokenError(f"{what} must carry the key {keys and keys.public}, but carries {key!r}.")


def _absent(case: TransportCase) -> str:
    try:
        case.make().new_keys()
    except KeysError as error:
        return error.message
    return ""


KEY_CHECKS: tuple[Check, ...] = tuple(
    law(function, absent=_absent)
    for function in (
        check_keys_prove,
        check_keys_at_opening,
        check_unknown_key,
        check_wrong_researcher,
        check_plaintext_node,
        check_plaintext_researcher,
        check_denied,
        check_denied_hears_nothing,
        check_enrolment_fails,
        check_keys_belong_together,
    )
)
"""The laws of keys."""
