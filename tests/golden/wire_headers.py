"""One header of each type: what the golden files of the wire format hold."""

from __future__ import annotations

import numpy as np

from fedplug.core.messages import (
    DatasetCard,
    LogLine,
    NodeInfo,
    PlanAnswer,
    Progress,
    TaskFailure,
    TaskKey,
    TrainReply,
    TrainRequest,
)
from fedplug.core.params import Params
from fedplug.core.plan_source import PlanBundle
from fedplug.wire import Blob, Tables
from fedplug.wire import headers as h

KEY = TaskKey(experiment_id="exp-01", round=3, node_id="node-a", attempt=1)
SESSION = (1_700_000_000_000_000_000, 4)
PARAMS = Params.from_arrays(
    {
        "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "layer.bias": np.array([0.5, -0.5, np.inf], dtype=np.float32),
        "steps": np.array(7, dtype=np.int64),
        "mask": np.array([True, False]),
    }
)
PLAN = PlanBundle("Plan", "class Plan:\n    pass\n", ("import numpy as np",))


def _headers() -> dict[str, h.AnyHeader]:
    tables = Tables()
    params = tables.ref(Blob.of_params(PARAMS), inline=True)
    aux = {"control": tables.ref(Blob.of_params(PARAMS), inline=False)}
    plan = tables.ref(Blob.of_plan(PLAN), inline=True)
    digest = PARAMS.fingerprint()
    request = TrainRequest(
        key=KEY, dataset_id="d1", plan_class="Plan", model_args={"width": 3}, training_args={"lr": 0.1, "tags": ["a"]},
        seed=11, data_seed=12, acked_round=2, total_rounds=10, aux=("control",),
        train=False, acked_state="0f" * 32,
    )  # fmt: skip
    reply = TrainReply(
        key=KEY, sample_count=100, steps=9, metrics={"loss": 0.25}, timing={"train": 1.5}, state="kept",
        aux=("control",), state_id="a5" * 32,
    )  # fmt: skip
    card = DatasetCard(
        dataset_id="d1", name="Clinic", type="csv", tags=("a", "b"), shape=(10, 3), columns=("x", "y"),
        dtypes=("float64", "int64"), target="y",
    )  # fmt: skip
    node = NodeInfo(node_id="node-a", name="Hospital A", version="0.1.0", plugins={"zmq": "0.1.0"})
    failure = TaskFailure(key=KEY, code="plan-raised", text="It raised.", details="Traceback ...")
    return {
        "HELLO": h.Hello(session=SESSION, versions=(1, 1), node=node, held=(KEY,)),
        "WELCOME": h.Welcome(
            session=SESSION, version=1, chunk=1 << 20, credit=16, heartbeat=2.0, epoch="e", researcher="lab"
        ),
        "REFUSE": h.Refuse(session=SESSION, code="version", text="Too old.", retry_after=30.0),
        "REHELLO": h.Rehello(session=SESSION),
        "HB": h.Hb(session=SESSION, seq=5, held=(KEY,)),
        "SEARCH": h.Search(session=SESSION, query=1, tags=("a",)),
        "DATASETS": h.Datasets(session=SESSION, query=1, cards=(card,)),
        "PLAN_ASK": h.PlanAsk(
            session=SESSION,
            query=2,
            plan=plan,
            class_name="Plan",
            dataset="ds-1",
            submit=True,
            description="A test.",
        ),
        "PLAN_STATUS": h.PlanStatus(
            session=SESSION,
            query=2,
            answer=PlanAnswer(plan=PLAN.hash, status="approved", note="Fine.", until="2027-01-31T23:59:59+00:00"),
        ),
        "TASK": h.Task(session=SESSION, request=request, plan=plan, params=params, tables=tables.raw, aux=aux),
        "TASK_ACK": h.TaskAck(session=SESSION, key=KEY, state="held"),
        "OFFER": h.Offer(session=SESSION, reply=reply, params=params, tables=tables.raw, aux=aux),
        "GET": h.Get(session=SESSION, blob=digest, ranges=((0, 4), (7, 1))),
        "CHUNK": h.Chunk(session=SESSION, blob=digest, index=7, crc=0xDEADBEEF),
        "SUMS": h.Sums(session=SESSION, blob=digest, first=7, crcs=(0xDEADBEEF, 0)),
        "COMMITTED": h.Committed(session=SESSION, keys=(KEY,)),
        "CANCEL": h.Cancel(session=SESSION, key=KEY, reason="enough"),
        "BYE": h.Bye(session=SESSION, reason="done"),
        "ERROR": h.Error(session=SESSION, code="plan-raised", text="It raised.", failure=failure),
        "EVENT": h.Event(
            session=SESSION,
            progress=(Progress(key=KEY, step=4, total_steps=9, epoch=1, samples=40, metrics={"loss": 0.5}),),
            logs=(LogLine(level="INFO", text="hello", key=KEY),),
            dropped=2,
        ),
    }


HEADERS = _headers()
