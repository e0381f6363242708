from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.events import Clock, Line, Station, Thread

times = st.floats(min_value=0, max_value=100)
jobs = st.lists(st.tuples(times, times), min_size=1, max_size=30)


def ends_at(clock, ask, work):
    """When each job ends, in the order of the jobs; ``work`` is pairs of arrival and service."""
    ends = [math.nan] * len(work)
    for number, (arrival, seconds) in enumerate(work):

        def done(number=number):
            ends[number] = clock.now

        clock.after(arrival, lambda seconds=seconds, done=done: ask(seconds, done))
    clock.run()
    return ends


def queued(work, servers):
    """The same by the recursion of Lindley (one server) or of Kiefer and Wolfowitz (several)."""
    ends, free = [math.nan] * len(work), [0.0] * servers
    for number in sorted(range(len(work)), key=lambda n: (work[n][0], n)):
        arrival, seconds = work[number]
        ends[number] = max(arrival, heapq.heappop(free)) + seconds
        heapq.heappush(free, ends[number])
    return ends


@given(jobs, st.integers(min_value=1, max_value=4))
def test_a_station_serves_in_order_of_arrival(work, servers):
    clock = Clock()
    station = Station(clock, servers)
    assert ends_at(clock, station.ask, work) == pytest.approx(queued(work, servers))
    assert station.busy == pytest.approx(sum(seconds for _, seconds in work))


@given(jobs, st.integers(min_value=1, max_value=3))
def test_threads_on_enough_cores_do_not_notice_each_other(work, count):
    clock = Clock()
    cores = Station(clock, count)
    threads = [Thread(clock, cores) for _ in range(count)]
    got = [math.nan] * len(work)
    for number, (arrival, seconds) in enumerate(work):
        thread = threads[number % count]

        def done(number=number):
            got[number] = clock.now

        clock.after(arrival, lambda thread=thread, seconds=seconds, done=done: thread.ask(seconds, done))
    clock.run()
    for first in range(count):
        assert got[first::count] == pytest.approx(queued(work[first::count], 1))


@given(jobs)
def test_threads_on_one_core_take_as_long_as_one(work):
    clock = Clock()
    cores = Station(clock)
    threads = [Thread(clock, cores) for _ in range(3)]
    for number, (_, seconds) in enumerate(work):
        threads[number % 3].ask(seconds, lambda: None)
    clock.run()
    assert clock.now == pytest.approx(sum(seconds for _, seconds in work))


def test_random_arrivals_wait_as_long_as_pollaczek_and_khinchine_say():
    chance, clock, service, load = random.Random(1), Clock(), 1.0, 0.5
    station, waits, arrival = Station(clock), [], 0.0
    for _ in range(20_000):
        arrival += chance.expovariate(load / service)

        def come(arrival=arrival):
            station.ask(service, lambda: waits.append(clock.now - arrival - service))

        clock.after(arrival, come)
    clock.run()
    # M/D/1: half of load / (1 - load) services; the mean of 20,000 waits is within a few per cent of it
    assert sum(waits) / len(waits) == pytest.approx(service * load / (1 - load) / 2, rel=0.08)


def test_lines_carry_one_message_after_the_other():
    clock = Clock()
    line = Line(clock, bandwidth=100.0, latency=0.5)
    arrivals = []
    for nbytes in (100, 300):
        line.send(nbytes, lambda: arrivals.append(clock.now))
    clock.run()
    assert arrivals == pytest.approx([1.5, 4.5])
    assert line.carried == 400
    assert line.busy == pytest.approx(4.0)


def test_a_clock_stops_where_it_is_told():
    clock, seen = Clock(), []
    for seconds in (3.0, 1.0, 2.0):
        clock.after(seconds, lambda seconds=seconds: seen.append(seconds))
    assert clock.run(lambda: len(seen) == 2)
    assert (seen, clock.now) == ([1.0, 2.0], 2.0)
    assert not clock.run(limit=2.5)
    assert not clock.run()
    assert (seen, clock.events) == ([1.0, 2.0, 3.0], 3)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_nothing_happens_in_the_past(seconds):
    with pytest.raises(ValueError, match="Nothing can happen"):
        Clock().after(seconds, lambda: None)


def test_stations_and_lines_need_something_to_serve_with():
    with pytest.raises(ValueError, match="server"):
        Station(Clock(), 0)
    with pytest.raises(ValueError, match="bandwidth"):
        Line(Clock(), 0.0)
