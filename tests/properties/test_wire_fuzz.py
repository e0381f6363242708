"""A hundred thousand damaged headers, and as many damaged frames: typed refusals, no growth, and life goes on."""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Iterator

import msgspec
import psutil
import pytest
from mutator_kit import START, Mutator, golden

from fedplug.core.errors import CodecError
from fedplug.core.params import ParamsSpec, TensorSpec
from fedplug.protocol.bodies import unpack
from fedplug.protocol.simulated_experiment import SimulatedExperiment
from fedplug.protocol.simulated_node import SimulatedNode, Violation
from fedplug.protocol.simulator import Simulator, Story
from fedplug.wire import decode_header, decode_table, encode_header, plan_of
from fedplug.wire import headers as h

MUTANTS = 100_000


def _digest(data: bytes) -> bool:
    """Do what a receiver does with a header and its tables. Whether it was taken; else it was refused as it should."""
    try:
        header = decode_header(data)
        for table in getattr(header, "tables", ()):
            decode_table(table)
        if isinstance(header, h.Task | h.Offer):
            unpack(header, memoryview(b""))
    except CodecError:
        return False
    return True


class Growth:
    """What this process holds more than when it began, in blocks of Python's allocator and in bytes of memory."""

    def __init__(self) -> None:
        self._began = self._now()

    def _now(self) -> tuple[int, int]:
        gc.collect()
        return sys.getallocatedblocks(), psutil.Process().memory_info().rss

    def check(self) -> None:
        """Fail if it is more than a cache or two may take."""
        blocks, resident = (now - before for now, before in zip(self._now(), self._began, strict=True))
        assert blocks < 5_000, f"{blocks} objects were left behind"
        # the C library keeps what the largest mutants needed, 13 to 26 MiB, however many there are
        assert resident < 32 * 2**20, f"{resident:,} bytes more are held"


def test_a_hundred_thousand_mutants_of_headers_are_taken_or_refused_and_leave_nothing_behind():
    mutator = Mutator(7)
    taken = [0, 0]
    growth = Growth()
    for number in range(MUTANTS):
        taken[_digest(mutator.of(mutator.good[number % len(mutator.good)]))] += 1
        if number == MUTANTS // 10:
            growth = Growth()  # by now all caches are full
    growth.check()
    assert taken[False] > MUTANTS // 2, "most mutants are no headers"
    assert taken[True] > MUTANTS // 50, "some are, or the fuzzing would never get beyond the first check"


def test_a_leak_would_be_seen():
    growth = Growth()
    kept = [[number] for number in range(6_000)]
    with pytest.raises(AssertionError, match="left behind"):
        growth.check()
    kept = [bytearray(b"x") * (48 * 2**20)]  # in one piece, for which the C library has no place left from before
    with pytest.raises(AssertionError, match="held"):
        growth.check()
    del kept


def test_mutants_of_plans_are_taken_or_refused_with_a_typed_error():
    rng = random.Random(3)
    good, refused = golden.PLAN.encode(), 0
    for _ in range(3_000):
        data = bytearray(good)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            plan_of(bytes(data), golden.PLAN.hash)
        except CodecError:
            refused += 1
    assert refused > 2_900


class Deaf(SimulatedExperiment):
    """Believes everything, and goes on."""

    def on(self, event):
        try:
            super().on(event)
        except Violation:
            self._world.faults["believed"] += 1

    def check_end(self):
        pass


class DeafNode(SimulatedNode):
    """Likewise."""

    def on(self, event):
        try:
            super().on(event)
        except Violation:
            self._world.faults["believed"] += 1


class Fuzzed(Simulator):
    """Before each frame arrives, some mutants of it arrive on the same connection, as from somebody who lies.

    Args:
        seed: As `Simulator`.
        readable: Whether mutants that are headers come, too. They may say anything, so nothing holds any more but
            that no machine raises.
    """

    def __init__(self, seed: int, *, readable: bool) -> None:
        self.mutants = 0
        self._readable = readable
        self._mutator = Mutator(seed)
        story = Story(nodes=3, rounds=4, calm=30.0, patience=60.0 if readable else 400.0)
        users = {"experiment": Deaf, "runtime": DeafNode} if readable else {}
        super().__init__(seed, story, **users)
        self._arrive, self.network.arrive = self.network.arrive, self._with_mutants

    def _with_mutants(self, line, way, header, body):
        for mutant in self._some_of(header):
            self.mutants += 1
            damaged = body if self._mutator.rng.random() < 0.7 else memoryview(self._mutator.rng.randbytes(50))
            self._arrive(line, way, mutant, damaged)
        self._arrive(line, way, header, body)

    def _some_of(self, header: bytes) -> Iterator[bytes]:
        if self._readable:
            yield from (self._mutator.of(header) for _ in range(8))
        elif self._mutator.rng.random() < 0.6:
            mutant = self._mutator.of(header)
            try:
                decode_header(mutant)
            except CodecError:
                yield mutant


def test_a_hundred_thousand_mutants_of_frames_make_no_machine_raise():
    mutants, believed, seed = 0, 0, 0
    growth = Growth()
    while mutants < MUTANTS:
        fuzzed = Fuzzed(seed, readable=True)
        with contextlib.suppress(Violation):  # not everything that a liar began can end
            fuzzed.run()
        mutants += fuzzed.mutants
        believed += fuzzed.faults["believed"]
        seed += 1
        if seed == 2:
            growth = Growth()
        del fuzzed
    growth.check()
    assert believed, "some mutants were believed, or the fuzzing would have been for nothing"


def test_unreadable_frames_change_nothing():
    fuzzed = [Fuzzed(seed, readable=False) for seed in range(30)]
    for each in fuzzed:
        each.run()
    assert sum(each.stats["messages_malformed"] for each in fuzzed) > 1_000
    assert sum(each.stats["peers_dropped"] for each in fuzzed) > 5, "who sends too many is dropped, and returns"


def _offer(*tensors: TensorSpec, nbytes: int) -> bytes:
    """An OFFER of arrays of this layout, larger than `encode_header` would let out if need be."""
    fields = msgspec.msgpack.decode(encode_header(golden.HEADERS["OFFER"])[len(START) :])
    fields["tables"] = [msgspec.Raw(msgspec.msgpack.encode(ParamsSpec(tuple(tensors), nbytes)))]
    return START + msgspec.msgpack.encode(fields)


def _scalars(count: int) -> bytes:
    return _offer(*[TensorSpec(f"{i:x}", (), "uint8", i) for i in range(count)], nbytes=count)


ROW_29 = {
    "text of 1 GiB claimed": START + b"\x82\xa4type\xa3BYE\xa6reason\xdb\x40\x00\x00\x00" + b"x" * 100,
    "bytes of 4 GiB claimed": START + b"\x82\xa4type\xa4TASK\xa6tables\x91\xc6\xff\xff\xff\xff" + b"x" * 100,
    "list of 2 Gi claimed": START + b"\x83\xa4type\xa6SEARCH\xa5query\x01\xa4tags\xdd\x7f\xff\xff\xff",
    "map of 4 Gi claimed": START + b"\x82\xa4type\xa4TASK\xa7request\x81\xaamodel_args\xdf\xff\xff\xff\xff",
    "longer than allowed": START + b"\xdb" + bytes(300 * 1024),
    "20,000 tensors": _scalars(20_000),
    "9,000 tensors": _scalars(9_000),
    "product of a shape overflows": _offer(TensorSpec("a", (2**32, 2**32), "float32", 0), nbytes=0),
    "product of a shape hides behind a zero": _offer(TensorSpec("a", (0, 2**62, 2**62), "float32", 0), nbytes=0),
    "lists nested 200,000 levels deep": START + b"\x82\xa4type\xa4TASK\xa6tables\x91" + b"\x91" * 200_000,
    "maps nested 60,000 levels deep": START
    + b"\x82\xa4type\xa4TASK\xa7request\x81\xaamodel_args"
    + b"\x81\xa1a" * 60_000,
}


@pytest.mark.parametrize("what", ROW_29)
def test_row_29_a_bomb_is_refused_at_once_and_takes_no_memory(what):
    data = ROW_29[what]
    assert not _digest(data)
    tracemalloc.start()
    try:
        assert not _digest(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20, f"{peak:,} bytes for a header of {len(data):,}"
    began = time.thread_time()
    assert not _digest(data)
    assert time.thread_time() - began < 0.1
