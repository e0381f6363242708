"""What the protocol and its transports count, in words: nothing that is refused or dropped goes unsaid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

TRAFFIC = ("bytes_sent", "bytes_received", "frames_sent", "frames_received")
"""Counters of what is as it should be."""

COUNTERS: Mapping[str, str] = {
    "bytes_sent": "bytes sent",
    "bytes_received": "bytes received",
    "frames_sent": "messages sent",
    "frames_received": "messages received",
    "frames_refused": "messages that were damaged, too large or not in two parts: their connections were ended",
    "handshakes_failed": "connections that did not come about: no key, a wrong one, or another protocol",
    "answers_stale": "answers to a question that is not asked any more: ignored",
    "blobs_damaged": "models, updates or plans whose bytes were not those announced: fetched again, or given up",
    "chunks_damaged": "pieces that were damaged on the way: fetched again",
    "chunks_duplicate": "pieces that came twice: the second was ignored",
    "chunks_unasked": "pieces that nobody had asked for: ignored",
    "ends_late": "results of tasks that had been given up meanwhile: ignored",
    "ends_repeated": "results that were offered again, because no answer had come",
    "gets_ignored": "requests for pieces from a side that does not read what it gets: ignored",
    "gets_repeated": "requests for pieces that were made again, because none had come for long",
    "hellos_stale": "greetings of a connection that has been replaced: ignored",
    "messages_malformed": "messages that make no sense: refused",
    "messages_stale": "messages of an earlier connection: ignored, and the other side greets anew",
    "offers_duplicate": "updates that were offered twice: counted once",
    "offers_late": "updates that were offered when their round was over: not used",
    "offers_refused": "updates that were refused before they were fetched",
    "peers_dropped": "connections that were ended because of too many messages that make no sense",
    "peers_silent": "connections that were ended because nobody said who he is",
    "refused_copied-key": "nodes that were turned away because another machine has connected with the same key",
    "refused_duplicate-node": "nodes that were turned away because their id was connected already",
    "refused_muted": "nodes that were turned away because of too many messages that make no sense shortly before",
    "refused_unknown-key": "nodes that were turned away because their key is not on the list",
    "refused_version": "nodes that were turned away because of their version",
    "refused_wrong-id": "nodes that were turned away because their key is on the list for another id",
    "rehellos": "greetings that the other side has asked for anew",
    "signs_dropped": "signs of life and log lines that were left out, because there were too many",
    "tasks_duplicate": "tasks that came twice: trained once",
    "tasks_repeated": "tasks that were sent again, because no answer had come",
    "turned_away_full": "connections that were ended because there is no room for more",
    "turned_away_no-answer": "nodes that were not let in because it could not be found out whose key is on the list",
    "turned_away_plaintext-node": "connections that were not made because the other side came without keys",
    "turned_away_plaintext-researcher": "connections that were not made because only the other side has keys",
    "turned_away_unknown-key": "nodes that were not let in because their key is not on the list",
    "turned_away_wrong-key": "nodes that did not come in because they trust another key than the one here",
}
"""What each counter counts."""


def in_words(counters: Mapping[str, int], *, skip: Iterable[str] = TRAFFIC) -> list[str]:
    """The counters that are not zero, most notable first: ``"3 messages that make no sense: refused"``.

    Args:
        counters: Numbers by the names of `COUNTERS`; an unknown name is told as it is.
        skip: Names to leave out.
    """
    left_out = set(skip)
    told = [(name, count) for name, count in counters.items() if count and name not in left_out]
    return [f"{count:,} {COUNTERS.get(name, name)}" for name, count in sorted(told, key=lambda each: -each[1])]
