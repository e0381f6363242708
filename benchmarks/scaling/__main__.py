"""What a federation would cost that is larger than this machine: measure, fit, carry on, and play the messages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.scaling.flow import play
from benchmarks.scaling.model import CostModel, Load, Machine, cost_model
from benchmarks.scaling.page import PAGE, filled
from benchmarks.scaling.points import FILE, measured
from benchmarks.scaling.scenario import Scenario
from benchmarks.scaling.tables import TABLES, duration, number, percent, size
from benchmarks.scaling.tree import plan

_EXAMPLES = """
examples:
  python -m benchmarks.scaling                                the tables of docs/scaling.md
  python -m benchmarks.scaling tables trees optimum           two of them
  python -m benchmarks.scaling ask --nodes 1e5 --sampled 500 --model 4e7
                                                              where does one researcher end, and which tree would do?
  python -m benchmarks.scaling play 100 10 --model 1e6 --training 30 --drop-out 0.1
                                                              one round: 10 aggregators of 100 nodes each
  python -m benchmarks.scaling measure                        take the points again on this machine; some ten minutes
  python -m benchmarks.scaling page                           put the tables into docs/scaling.md
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    tables = commands.add_parser("tables", help="print tables as Markdown (this is the default)")
    tables.add_argument("names", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)}; all by default")

    ask = commands.add_parser("ask", help="what a federation would ask of one researcher, and of a tree")
    ask.add_argument("--nodes", type=float, required=True, help="nodes that are connected")
    ask.add_argument("--sampled", type=float, required=True, help="nodes that train in a round")
    ask.add_argument("--model", type=float, required=True, help="bytes of the parameters")
    ask.add_argument("--heartbeat", type=float, default=2.0, help="seconds between signs of life (2)")
    ask.add_argument("--seconds", type=float, default=60.0, help="what a round may take beside the training (60)")

    round_ = commands.add_parser("play", help="play the messages of one round")
    round_.add_argument("children", type=int, nargs="+", help="of an aggregator, from the nodes up to the researcher")
    round_.add_argument("--model", type=float, required=True, help="bytes of the parameters")
    round_.add_argument("--connected", type=int, default=0, help="nodes at each aggregator of the lowest level")
    round_.add_argument("--training", type=float, default=0.0, help="median seconds of a training (0)")
    round_.add_argument("--spread", type=float, default=0.3, help="standard deviation of its logarithm (0.3)")
    round_.add_argument("--drop-out", type=float, default=0.0, help="part of the nodes that are lost (0)")
    round_.add_argument("--dead", type=int, default=0, help="aggregators of the lowest level that die (0)")
    round_.add_argument("--seed", type=int, default=0, help="of the chance in it (0)")

    for command in (ask, round_):
        command.add_argument(
            "--bandwidth", type=float, default=Machine.bandwidth, help="bytes a second of an aggregator's"
        )
        command.add_argument(
            "--node-bandwidth",
            type=float,
            default=Machine.node_bandwidth,
            help="bytes a second of a node's line (12.5e6)",
        )
        command.add_argument("--memory", type=float, default=Machine.memory, help="bytes of memory of an aggregator")
        command.add_argument("--latency", type=float, default=Machine.latency, help="seconds from end to end (0.01)")
        command.add_argument("--plain", action="store_true", help="connections without keys")
        command.add_argument("--journal", action="store_true", help="with a journal")

    commands.add_parser("measure", help=f"take the points anew, into {FILE.name}")
    commands.add_parser("page", help=f"put the tables into {PAGE.name}")
    return parser


def _tables(names: Sequence[str], parser: argparse.ArgumentParser) -> None:
    unknown = [name for name in names if name not in TABLES]
    if unknown:
        parser.error(f"there is no table {unknown[0]!r}; there are {', '.join(TABLES)}")
    points = measured()
    print(f"Fitted to points taken on {points.machine}.")
    for name in names or TABLES:
        print(f"\n{name}\n\n{TABLES[name]()}")


def _machine(given: argparse.Namespace) -> Machine:
    return Machine(
        memory=given.memory, bandwidth=given.bandwidth, latency=given.latency, node_bandwidth=given.node_bandwidth
    )


def _costs(given: argparse.Namespace) -> CostModel:
    return cost_model(keyed=not given.plain, durable=given.journal)


def _ask(given: argparse.Namespace) -> None:
    costs, machine = _costs(given), _machine(given)
    load = Load(given.nodes, given.sampled, given.model, given.heartbeat)
    print(f"One researcher, used in a round of {duration(given.seconds)} beside the training:")
    for name, share in sorted(costs.shares(load, machine, given.seconds).items(), key=lambda item: -item[1]):
        print(f"  {name:14} {percent(share):>10}{'   too much' if share > 1 else ''}")
    print(f"  It would hold {size(costs.memory(load))} of memory; each node that trains takes it "
          f"{duration(costs.child_seconds(given.model, machine))}.")  # fmt: skip
    try:
        found = plan(costs, load, machine, given.seconds)
    except ValueError as error:
        print(error)
        return
    if found.aggregators == 0:
        print("One is enough.")
        return
    widths = " → ".join(f"{width:,}" for width in found.widths)
    print(f"A tree: {widths} aggregators, level by level ({found.why}); "
          f"a round would take {duration(found.seconds)} beside the training.")  # fmt: skip


def _play(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    costs = _costs(given)
    try:
        scenario = Scenario(
            costs=costs, model=given.model, fan_outs=tuple(given.children), connected=given.connected,
            machine=_machine(given), node_seconds=costs.node_seconds(given.model),
            training=given.training, spread=given.spread, drop_out=given.drop_out, dead=given.dead, pieces=16,
            seed=given.seed,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    got = play(scenario)
    print(f"{got.counted:,} updates are in the sum after {duration(got.seconds)}; {got.lost:,} nodes were lost.")
    print(f"The slowest node by itself takes {duration(got.slowest)}.")
    work = ", ".join(f"{name} {duration(seconds)}" for name, seconds in got.root.items())
    print(f"The root worked: {work}; it took in {size(got.root_up)} and sent {size(got.root_down)}.")
    print(f"{number(got.events, 3)} events; {size(got.sent)} went over lines.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Args:
        arguments: The command line; that of the process by default.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command == "ask":
        _ask(given)
    elif given.command == "play":
        _play(given, parser)
    elif given.command == "measure":
        from benchmarks.scaling.measure import take

        take()
    elif given.command == "page":
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")
    else:
        _tables(getattr(given, "names", ()), parser)


if __name__ == "__main__":
    main()
