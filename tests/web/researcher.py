"""A researcher for the test of the page: listens, and does what the lines on its standard input say."""

from __future__ import annotations

import sys

import pytest

from fedplug import Experiment
from fedplug.core.errors import RoundError


def main():
    args = {"epochs": 3, "loader_args": {"batch_size": 4}, "optimizer_args": {"lr": 0.01}, "log_interval": 1}
    with Experiment(transport="zmq://127.0.0.1:0", training_args=args, min_nodes=1, progress="quiet") as exp:
        print(exp.pool().address, flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "plan":
                exp.set_training_plan_path(rest)
                exp.set_training_plan_class("Slope")
            elif word == "find":
                exp.set_tags(rest)
            elif word == "ask":
                exp.training_plan_approve(rest)
            elif word == "run":
                exp.run(rounds=int(rest), increase=True)
            elif word == "try":
                with pytest.raises(RoundError, match=rest):
                    exp.run(rounds=1, increase=True)
            print("done", line.strip(), flush=True)


if __name__ == "__main__":
    main()
