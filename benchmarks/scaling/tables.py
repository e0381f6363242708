"""The tables of ``docs/scaling.md``, as Markdown, each from the data file and the code alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import median

from benchmarks.scaling.fit import Fit
from benchmarks.scaling.flow import play
from benchmarks.scaling.model import MB, THREADS, CostModel, Load, Machine, cost_model, descriptors_per_node
from benchmarks.scaling.points import RoundPoint, measured
from benchmarks.scaling.scenario import Scenario
from benchmarks.scaling.tree import best_fan_out, fan_outs, level_seconds, level_time, plan

MODELS = (1e3, 1e6, 1e8)
FEDERATIONS = ((10_000, 100), (10_000, 1000), (1_000_000, 100), (1_000_000, 1000), (1_000_000, 10_000))
"""Connected and sampled nodes; the first and the last are 1 %."""

ROUND = 60.0
"""Seconds that a researcher may add to a round."""

SLOW_HEARTBEAT = 10.0
HEARTBEATS = (2.0, 10.0, 30.0, 60.0)
MACHINE = Machine()
TRAINING, SPREAD, PIECES = 30.0, 0.3, 8


NOTHING = "\u2013"


def number(value: float, digits: int = 2) -> str:
    """A number as a person reads it: so many digits, no exponent, nothing behind the third decimal."""
    if abs(value) < 5e-4:
        return "0"
    last = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, last):,.{min(3, max(0, last))}f}"


def size(nbytes: float) -> str:
    """Bytes in a unit that suits."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if nbytes >= unit:
            return f"{number(nbytes / unit)} {name}"
    return f"{number(nbytes)} B"


def duration(seconds: float) -> str:
    """Seconds in a unit that suits; what is below 10 ns counts as nothing."""
    seconds = float(f"{seconds:.2g}")
    if seconds < 1e-8:
        return NOTHING
    if seconds >= 1:
        return f"{number(seconds)} s"
    return f"{number(1000 * seconds)} ms" if seconds >= 1e-3 else f"{number(1e6 * seconds)} µs"


def percent(part: float) -> str:
    """A share."""
    return f"{number(100 * part)} %"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _federation(connected: int, sampled: int) -> list[str]:
    return [f"{connected:,}", f"{sampled:,}"]


# -- what was measured ------------------------------------------------------------------------------------------------


def costs() -> str:
    """The fitted costs, and how far they are from what they were fitted to."""
    fits = cost_model().fits
    names = ("round", "MB", "connected", "sampled", "sampled MB")
    rows = []
    for thread, found in fits.rounds.items():
        cells = [duration(found.coefficients[name]) if name in found.coefficients else NOTHING for name in names]
        rows.append([thread if thread != "echo" else "echo nodes", *cells, *_errors(found)])
    return markdown(
        ["thread", "a round", "an MB of the model", "a connected node", "a node that trains", "an MB of such a node",
         "typical error", "largest"], rows,
    )  # fmt: skip


def extras() -> str:
    """What keys and the journal add."""
    fits = cost_model().fits.rounds
    rows = []
    for what in ("keys", "journal"):
        for thread in THREADS:
            found = fits[thread].coefficients
            names = [f"{name}, {what}" for name in ("round", "sampled", "sampled MB")]
            if any(found.get(name, 0) >= 1e-7 for name in names):
                rows.append([what, thread, *(duration(found[name]) if found.get(name) else NOTHING for name in names)])
    return markdown(["with", "thread", "a round", "a node that trains", "an MB of such a node"], rows)


def _errors(found: Fit[RoundPoint]) -> list[str]:
    return [percent(found.typical_error), percent(found.worst_error)]


def others() -> str:
    """What is no processor time of a round."""
    points, fits = measured(), cost_model().fits
    rows = [
        ["bytes to a node that trains, beside the model", f"{number(fits.sent['sampled'], 3)} B", fits.sent],
        ["bytes from it, beside the update", f"{number(fits.received['sampled'], 3)} B", fits.received],
        ["memory for a connection", size(fits.memory["node"]), fits.memory],
        ["more with keys", size(fits.memory["node, keys"]), fits.memory],
        ["to let a node in, all threads", duration(fits.connect["node"]), fits.connect],
        ["more with keys", duration(fits.connect["node, keys"]), fits.connect],
        ["signs of life, a node and second: pump", duration(fits.rest["pump"]["node"]), fits.rest["pump"]],
        ["more with keys", duration(fits.rest["pump"]["node, keys"]), fits.rest["pump"]],
        ["signs of life, a node and second: native", duration(fits.rest["native"]["node"]), fits.rest["native"]],
        ["more with keys", duration(fits.rest["native"]["node, keys"]), fits.rest["native"]],
        ["signs of life, a node and second: bytes", f"{number(fits.rest['bytes']['node'])} B", fits.rest["bytes"]],
        ["a node process and its worker, a task", duration(fits.nodes["task"]), fits.nodes],
        ["an MB of it", duration(fits.nodes["MB"]), fits.nodes],
        ["more with keys, an MB", duration(fits.nodes["MB, keys"]), fits.nodes],
        ["the mean alone, an MB", duration(fits.fold["MB"]), fits.fold],
        ["memory of a virtual node of a simulation", size(fits.virtual["node"]), fits.virtual],
    ]
    cells = [[str(what), str(cost), *_errors(found)] for what, cost, found in rows]  # type: ignore[arg-type]
    cells.insert(4, ["descriptors for a connection", number(descriptors_per_node(points), 3), NOTHING, NOTHING])
    return markdown(["what", "cost", "typical error", "largest"], cells)


def as_measured(point: RoundPoint) -> Scenario:
    """The scenario of a point: everybody on the machine that it was taken on."""
    costs = replace(cost_model(), keyed=point.keyed, durable=point.durable)
    return Scenario(
        costs=costs, model=point.model, fan_outs=(point.sampled,), connected=point.nodes,
        machine=Machine(bandwidth=math.inf, latency=0.0001, node_bandwidth=math.inf),
        node_seconds=costs.coefficient("echo", "sampled") + costs.coefficient("echo", "sampled MB") * point.model / MB,
        cores=measured().cores, hosts=min(4, point.nodes),
    )  # fmt: skip


def validation() -> str:
    """Rounds as measured, and as played."""
    rows, errors = [], []
    for point in measured().rounds:
        how = "keys, journal" if point.durable else "keys" if point.keyed else "plain"
        seconds = play(as_measured(point)).seconds
        errors.append(seconds / point.wall - 1)
        rows.append([
            *_federation(point.nodes, point.sampled), size(point.model), how, duration(point.wall), duration(seconds),
            f"{100 * errors[-1]:+.0f} %",
        ])  # fmt: skip
    rows.append(["median", "", "", "", "", "", f"{100 * median(errors):+.0f} %"])
    rows.append(["median without sign", "", "", "", "", "", f"{100 * median(map(abs, errors)):.0f} %"])
    return markdown(["nodes", "sampled", "model", "how", "measured", "played", "error"], rows)


# -- one researcher ---------------------------------------------------------------------------------------------------


def one_node() -> str:
    """What a node that trains costs in a round."""
    costs = cost_model()
    rows = []
    for model in MODELS:
        load = Load(1, 1, model)
        each = [costs.coefficient(t, "sampled") + costs.coefficient(t, "sampled MB") * model / MB for t in THREADS]
        rows.append([
            size(model), *map(duration, each), size(costs.bytes_down(load) + costs.bytes_up(load)),
            duration(max(costs.bytes_down(load), costs.bytes_up(load)) / MACHINE.bandwidth),
            duration(costs.node_seconds(model)),
        ])  # fmt: skip
    return markdown(
        ["model", "main", "pump", "native", "bytes, both ways", "network, 10 Gbit/s", "the node's own processor"], rows
    )


def connected() -> str:
    """How many nodes can be connected."""
    costs = cost_model()
    rows = []
    for heartbeat in HEARTBEATS:
        most, ends = costs.most_connected(MACHINE, heartbeat)
        load = Load(most, 0, 0, heartbeat)
        rows.append([
            f"{heartbeat:g} s", number(most), f"half a core of the {ends}" if "thread" in ends else ends,
            size(costs.memory(load)), size(costs.rest_bytes(load)) + "/s", duration(most * costs.connect_seconds),
        ])  # fmt: skip
    return markdown(
        ["heartbeat", "nodes", "what ends there", "memory", "signs of life", "processor to let all of them in"], rows
    )


def one_researcher() -> str:
    """What one researcher would use of everything in federations that are too large for it, or not."""
    costs = cost_model()
    rows = []
    for connections, sampled in FEDERATIONS:
        for model in MODELS:
            load = Load(connections, sampled, model)
            name, share = costs.first(load, MACHINE, ROUND)
            slower = costs.first(replace(load, heartbeat=SLOW_HEARTBEAT), MACHINE, ROUND)
            rows.append([
                *_federation(connections, sampled), size(model), percent(connections / MACHINE.descriptors),
                percent(costs.memory(load) / MACHINE.memory),
                number(costs.rest_share("pump", load) + costs.rest_share("native", load)),
                duration(sampled * costs.child_seconds(model, MACHINE)),
                duration(costs.bytes_down(load) / MACHINE.bandwidth),
                f"{name}, {number(share)}", f"{slower[0]}, {number(slower[1])}",
            ])  # fmt: skip
    return markdown(
        ["nodes", "sampled", "model", "descriptors", "memory", "cores for signs of life", "a round", "of it network",
         "ends first, heartbeat 2 s", "10 s"], rows,
    )  # fmt: skip


# -- trees ------------------------------------------------------------------------------------------------------------


def optimum() -> str:
    """The fan-out that is fastest, and what a round takes in trees of one to four levels."""
    costs = cost_model()
    rows = []
    for leaves in (1000, 10_000):
        for model in MODELS:
            leaf, inner = (costs.child_seconds(model, MACHINE, update) for update in (1.0, 2.0))
            level = level_seconds(costs, model, MACHINE)
            times = [level_time(leaves, depth, (leaf, inner), level) for depth in (1, 2, 3, 4)]
            shown = [duration(taken) for taken in times]
            best = min(range(4), key=times.__getitem__)
            shown[best] = f"**{shown[best]}**"
            widths = " x ".join(map(str, fan_outs(leaves, best + 1, (leaf, inner))))
            rows.append(
                [
                    f"{leaves:,}",
                    size(model),
                    duration(leaf),
                    duration(level),
                    number(best_fan_out(leaf, level)),
                    *shown,
                    widths,
                ]
            )
    return markdown(
        ["sampled", "model", "t", "L", "best fan-out", "1 level", "2", "3", "4", "children, from the leaves up"], rows
    )


def trees() -> str:
    """The smallest trees for the federations above."""
    costs = cost_model()
    rows = []
    for connections, sampled in FEDERATIONS:
        for model in MODELS:
            load = Load(connections, sampled, model, heartbeat=SLOW_HEARTBEAT)
            found = plan(costs, load, MACHINE, ROUND)
            lowest = found.widths[0]
            rows.append([
                *_federation(connections, sampled), size(model), " → ".join(f"{width:,}" for width in found.widths),
                f"{math.ceil(connections / lowest):,}", number(sampled / lowest), duration(found.seconds), found.why,
            ])  # fmt: skip
    return markdown(
        [
            "nodes",
            "sampled",
            "model",
            "aggregators by level",
            "nodes of each",
            "of them train",
            "a round",
            "why so many",
        ],
        rows,
    )


def played() -> str:
    """Rounds of 1,000 nodes that train, flat and as trees, without and with faults."""
    rows = [_played(shape, model) for model in MODELS for shape in ((1000,), (100, 10), (32, 32))]
    rows += [
        _played((10, 10, 10), 1e8), _played((100, 10), 1e6, drop_out=0.1), _played((100, 10), 1e6, dead=1),
        _played((32, 32), 1e8, dead=1),
    ]  # fmt: skip
    return markdown(
        ["children, from the leaves up", "model", "faults", "a round", "beside the slowest node", "in the sum",
         "bytes into the root", "busiest thread of the root"], rows,
    )  # fmt: skip


def _played(shape: tuple[int, ...], model: float, *, drop_out: float = 0.0, dead: int = 0) -> list[str]:
    given = scenario(cost_model(), shape, model, drop_out=drop_out, dead=dead)
    got = play(given)
    fault = f"{percent(drop_out)} of the nodes drop out" if drop_out else "an aggregator dies" if dead else NOTHING
    busiest = max(got.root, key=lambda name: got.root[name])
    return [
        " x ".join(map(str, shape)), size(model), fault, duration(got.seconds), duration(got.seconds - got.slowest),
        f"{got.counted:,}", size(got.root_up), f"{busiest}, {duration(got.root[busiest])}",
    ]  # fmt: skip


def scenario(
    costs: CostModel, shape: tuple[int, ...], model: float, *, drop_out: float = 0.0, dead: int = 0
) -> Scenario:
    """A round of nodes with lines of 100 Mbit/s, which train for half a minute, give or take a third."""
    return Scenario(
        costs=costs, model=model, fan_outs=shape, node_seconds=costs.node_seconds(model),
        training=TRAINING, spread=SPREAD, drop_out=drop_out, dead=dead, pieces=PIECES, seed=1,
    )  # fmt: skip


TABLES: dict[str, Callable[[], str]] = {
    "costs": costs,
    "extras": extras,
    "others": others,
    "one-node": one_node,
    "validation": validation,
    "connected": connected,
    "one-researcher": one_researcher,
    "optimum": optimum,
    "trees": trees,
    "played": played,
}
