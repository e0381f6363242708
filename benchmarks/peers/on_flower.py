"""S1, S2, S3 and R1 on Flower's simulation: two actors of Ray with one processor each, and federated averaging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers import flower_client, flower_still
from benchmarks.peers.pairs import Pairs
from benchmarks.peers.rows import Row, arguments

HOW = "simulation, 2 Ray actors"


class Noting(FedAvg):  # type: ignore[misc] # Flower is not installed where types are checked
    """Federated averaging that notes who trained."""

    trained: list[int]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        kept = list(replies)
        self.trained = [int(reply.content["metrics"]["node"]) for reply in kept if reply.has_content()]
        return super().aggregate_train(server_round, kept)


def simulate(serve: Callable[[Grid], None], client: ClientApp, nodes: int) -> None:
    """Run a server's function and the nodes' client app."""
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator] # as above
    def main(grid: Grid, context: Any) -> None:
        del context
        serve(grid)

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "logging_level": "ERROR"},
    }
    run_simulation(server, client, nodes, backend_config=backend)


def training(name: str, quick: bool) -> Row:
    """S1, S2 or S3."""
    pairs = Pairs(name, quick)
    workload = pairs.workload
    averaging = Noting(
        fraction_train=workload.sampled / workload.nodes, fraction_evaluate=0.0,
        min_train_nodes=workload.sampled, min_available_nodes=workload.nodes,
    )  # fmt: skip

    def after(server_round: int, arrays: ArrayRecord) -> Any:
        if server_round == 0:
            pairs.begin(arrays.to_torch_state_dict())
        else:
            pairs.stop()
            pairs.compare(arrays.to_torch_state_dict(), averaging.trained)

    def serve(grid: Grid) -> None:
        averaging.start(
            grid, ArrayRecord(workload.model().state_dict()), num_rounds=pairs.rounds,
            train_config=ConfigRecord({"workload": name}), evaluate_fn=after,
        )  # fmt: skip

    simulate(serve, flower_client.app, workload.nodes)
    if len(pairs.figures) != pairs.rounds:
        raise RuntimeError(f"{len(pairs.figures)} of {pairs.rounds} rounds came to their end")
    return pairs.row("Flower", "flwr", HOW)


def no_op(quick: bool) -> Row:
    """R1: ten nodes and a model of 1 KB."""
    still = flower_still.StillRounds(10, 5 if quick else 50)
    simulate(still.run, flower_still.app, still.nodes)
    return still.row("R1", HOW)


def main() -> None:
    """Run one workload and print its row."""
    name, quick = arguments(__doc__)
    row = no_op(quick) if name == "R1" else training(name, quick)
    print("\n" + row.line(), flush=True)


if __name__ == "__main__":
    main()
