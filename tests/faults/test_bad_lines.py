"""Lines between real nodes and their researcher that break, vanish, crawl and lie: rows 9 to 13 and 23.

In each row a proxy stands before the node in Paris. Whatever it does, the run ends with the bits of a run that nobody
disturbed, no training is done twice, and next to nothing is sent twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from fault_kit import CHUNK, CREDIT, NODES, ROUNDS, UPDATE, Federation, Outcome, Watch, federation_below

from fedplug.testing.faults import Fault, Pace, every

SMALL = 15_000
"""Numbers of a model for slow lines."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation_below(tmp_path_factory.mktemp("nodes")) as federation:
        yield federation


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The same with keys."""
    with federation_below(tmp_path_factory.mktemp("locked"), keys=True) as federation:
        yield federation


@pytest.fixture(scope="module")
def clean(federation: Federation) -> Outcome:
    """A run over lines that hold."""
    outcome = federation.run()
    require_each_task_once(federation, outcome)
    return outcome


@pytest.fixture(scope="module")
def clean_small(federation: Federation) -> Outcome:
    return federation.run(model_args={"size": SMALL})


def require_each_task_once(federation: Federation, outcome: Outcome) -> None:
    assert outcome.rounds == ROUNDS
    assert outcome.watch.replies == {(number, name): 1 for number in range(ROUNDS) for name in NODES}
    for name, node in federation.nodes.items():
        keys = {f"{outcome.experiment_id}/{number}/{name}/0": 1 for number in range(ROUNDS)}
        assert node.started(outcome.experiment_id) == keys, node.output()


def overhead(losses: int) -> int:
    """Bytes that may be sent in vain: what was under way when a line broke, and the words with which sessions begin."""
    return losses * (CREDIT * (CHUNK + 1024) + 8192)


@pytest.mark.parametrize(
    ("faults", "most"),
    [
        pytest.param(every("cut", UPDATE // 4, 3), 1.1, id="row_11_cut_every_25_percent"),
        pytest.param(every("reset", UPDATE // 4, 6), 1.1, id="row_10_reset_every_few_megabytes"),
        pytest.param(every("cut", UPDATE // 4, 3, "down"), 1.1, id="row_11_cut_every_25_percent_of_the_model"),
    ],
)
def test_a_line_that_breaks(federation: Federation, clean: Outcome, faults: tuple[Fault, ...], most: float) -> None:
    paris = federation.proxies["paris"]
    paris.play(*faults)
    outcome = federation.run()
    assert outcome.digest == clean.digest
    require_each_task_once(federation, outcome)
    assert paris.count(faults[0].kind) == len(faults)
    bare = ROUNDS * UPDATE
    for way in ("up", "down"):
        assert paris.sent(way) <= 1.03 * bare + overhead(len(faults)) <= most * bare


def test_row_09_a_line_that_swallows_everything_without_a_word(federation: Federation, clean: Outcome) -> None:
    paris = federation.proxies["paris"]
    paris.play(Fault("hole", UPDATE // 2))

    def hold() -> None:
        """Nothing gets through, on new connections neither, until both sides have found out by themselves."""
        broken = paris.wait("hole").connection
        paris.blackout()
        for what in ("node-left", "researcher-left"):
            while not any(each.what == what and each.connection == broken for each in paris.happenings()):
                paris.wait(what, paris.count(what) + 1)
        paris.restore()

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        outcome = federation.run()
    finally:
        holding.join()
    assert outcome.digest == clean.digest
    require_each_task_once(federation, outcome)
    assert "paris" in {name for name, _ in outcome.watch.dropped_nodes}
    bare = ROUNDS * UPDATE
    assert paris.sent("up") <= 1.03 * bare + overhead(paris.count("opened")) <= 1.2 * bare


def test_row_12_a_line_at_a_hundredth_of_the_usual_rate(federation: Federation, clean_small: Outcome) -> None:
    """A chunk takes most of a heartbeat. The other node is not held up, and nothing is sent twice."""
    order: list[str] = []
    paris = federation.proxies["paris"]
    paris.play(pace=Pace(rate=100_000))
    watch = Watch(lambda what, name: order.append(name) if what == "replied" else None)
    outcome = federation.run(watch, model_args={"size": SMALL})
    assert outcome.digest == clean_small.digest
    require_each_task_once(federation, outcome)
    assert order == ["lyon", "paris"] * ROUNDS
    assert paris.sent("up") <= 1.1 * ROUNDS * 8 * SMALL + overhead(paris.count("opened"))


def test_row_13_latency_and_jitter(federation: Federation, clean_small: Outcome) -> None:
    paris = federation.proxies["paris"]
    paris.play(pace=Pace(latency=0.05, jitter=0.05))
    outcome = federation.run(model_args={"size": SMALL})
    assert outcome.digest == clean_small.digest
    require_each_task_once(federation, outcome)


@pytest.mark.parametrize("way", ["up", "down"])
def test_row_23_flipped_bits(federation: Federation, clean: Outcome, way: str) -> None:
    """Fifty in each round, most of them in chunks, some in what stands around them."""
    paris = federation.proxies["paris"]
    paris.play(*every("flip", UPDATE // 50, 100, way))
    outcome = federation.run()
    assert outcome.digest == clean.digest
    require_each_task_once(federation, outcome)
    assert paris.count("flip") == 100
    if way == "up":
        assert outcome.traffic["chunks_damaged"] > 80


@pytest.mark.parametrize("way", ["up", pytest.param("down", marks=pytest.mark.slow)])
def test_row_23_flipped_bits_with_keys(locked: Federation, clean: Outcome, way: str) -> None:
    """What cannot be decrypted ends the connection; over the next one only what is missing crosses again."""
    paris = locked.proxies["paris"]
    paris.play(*every("flip", UPDATE // 2, 2, way))
    outcome = locked.run()
    assert outcome.digest == clean.digest
    require_each_task_once(locked, outcome)
    assert paris.count("flip") == 2
    assert paris.count("opened") >= 3
    assert outcome.traffic.get("chunks_damaged", 0) == 0
    bare = ROUNDS * UPDATE
    assert paris.sent(way) <= 1.03 * bare + overhead(paris.count("opened")) <= 1.1 * bare


def test_row_11_cuts_with_keys(locked: Federation, clean: Outcome) -> None:
    paris = locked.proxies["paris"]
    paris.play(*every("cut", UPDATE // 4, 3))
    outcome = locked.run()
    assert outcome.digest == clean.digest
    require_each_task_once(locked, outcome)
    assert paris.sent("up") <= 1.03 * ROUNDS * UPDATE + overhead(3)
