"""What goes to workers and comes back: once each, and the same to the bit. No cluster is needed for that."""

from __future__ import annotations

import pickle
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedplug import Component, Params, hookimpl
from fedplug.core.errors import EngineError, FedplugError, PlanRunError, RefusedError, UsageError
from fedplug.core.local_state import LocalState
from fedplug.core.messages import LogLine, Progress, TaskKey, TrainReply, TrainRequest
from fedplug.core.plan_source import PlanBundle
from fedplug.core.plugins import PluginHost, default_host
from fedplug.simulation import IID, Federation, SerialEngine
from fedplug.simulation.engines import Task, Trained
from fedplug.testing import strategies as fst
from fedplug_ray import RayEngine
from fedplug_ray.crew import Job
from fedplug_ray.outbox import Outbox
from fedplug_ray.parcels import LARGE, Failure, Incoming, News, Outgoing, Result, packed, unpacked
from fedplug_ray.versions import require_same, versions

PLAN = PlanBundle("Plan", "class Plan: ...")
BIG = Params.from_arrays({"w": np.arange(LARGE, dtype=np.uint8), "b": np.ones(3)})
SMALL = Params.from_arrays({"w": np.float32([1, 2])})


def key(node="n"):
    return TaskKey(experiment_id="e", round=1, node_id=node)


def task(params=BIG, aux=None, base=None, node="n"):
    request = TrainRequest(key=key(node), dataset_id="d", plan_class="Plan", model_args={"x": np.arange(3)})
    return Task(request, PLAN, params, aux or {}, base)


class Store:
    """Stands for Ray's object store."""

    def __init__(self):
        self.put_count = 0
        self.held = {}

    def put(self, raw):
        self.put_count += 1
        self.held[f"ref-{self.put_count}"] = np.array(raw)
        return f"ref-{self.put_count}"

    def get(self, ref):
        return self.held[ref]


def sent(outgoing, incoming, tasks):
    chunk = outgoing.chunk(list(enumerate(tasks)))
    return [each for _, each in incoming.tasks(pickle.loads(pickle.dumps(chunk)))]


def test_what_many_tasks_share_is_stored_once_a_round_and_sent_once_a_chunk():
    store = Store()
    outgoing, incoming = Outgoing(store.put), Incoming(store.get)
    base = LocalState(SMALL, b"\x80")
    tasks = [task(aux={"c": SMALL}, base=base, node=f"n{number}") for number in range(6)]
    for each in tasks:
        outgoing.hold(each)
    first, second = sent(outgoing, incoming, tasks[:3]), sent(outgoing, incoming, tasks[3:])
    assert store.put_count == 1
    assert len({id(each.params) for each in first + second}) == 1  # the inner engine sees one object
    assert len({id(each.plan) for each in first + second}) == 1
    for given_task, got in zip(tasks, first + second, strict=True):
        assert (got.params, got.aux, got.plan, got.base) == (BIG, {"c": SMALL}, PLAN, base)
        assert got.request.key == given_task.request.key
        assert got.request.model_args["x"].tolist() == [0, 1, 2]
    for each in tasks:
        outgoing.release(each)
    assert not outgoing._held
    assert not outgoing._blocks
    again = task(Params(BIG.spec, BIG.buffer))
    outgoing.hold(again)
    assert sent(outgoing, incoming, [again])[0].params == BIG
    assert store.put_count == 2


@given(st.lists(fst.params(), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_a_result_comes_back_as_it_was(arrays, keeps, same):
    params = arrays[0]
    asked = task(params if same else SMALL)
    aux = {f"a{number}": each for number, each in enumerate(arrays[1:])}
    kept = LocalState(arrays[-1], b"\x81\xa1x\x01") if keeps else None
    reply = TrainReply(key=key(), sample_count=3, steps=2, metrics={"loss": 0.5}, aux=tuple(aux))
    result, vectors = packed(7, asked, Trained(reply, params, aux, kept))
    assert len(vectors) == result.apart
    assert result.number == 7
    back = unpacked(pickle.loads(pickle.dumps(result)), vectors, asked.params.spec)
    assert back == Trained(reply, params, aux, kept)


def test_large_vectors_come_by_themselves_and_are_copied_out_of_the_store():
    result, vectors = packed(1, task(), Trained(TrainReply(key=key(), sample_count=1), BIG, {"c": SMALL, "d": BIG}))
    assert [block.table == b"" for block in result.blocks] == [True, False, True]
    assert result.apart == len(vectors) == 2
    stored = [np.array(vector) for vector in vectors]
    back = unpacked(result, stored, BIG.spec)
    for vector in stored:
        vector[:] = 0
    assert back.params == back.aux["d"] == BIG


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PlanRunError("It failed.", cure="Mend it.", details="line 3"), PlanRunError),
        (EngineError("No memory.", cure="Buy some."), EngineError),
        (RefusedError("No.", code="x", cure="Ask."), FedplugError),
    ],
)
def test_an_error_says_the_same_at_the_driver(error, kind):
    back = pickle.loads(pickle.dumps(Failure.of(error))).error()
    assert type(back) is kind
    assert str(back) == str(error)
    assert getattr(back, "details", "") == getattr(error, "details", "")


# what workers tell ---------------------------------------------------------------------------------------------------


def test_an_outbox_gathers_and_gives_vectors_behind_the_news_they_belong_to():
    outbox, vector = Outbox(), np.ones(2, np.uint8)
    signs = [Progress(key=key(), step=step) for step in range(3)]
    for sign in signs:
        outbox.sign(4, sign)
    outbox.result(Result(4), [vector])
    outbox.sign(5, LogLine(level="info", text="x"))
    outbox.end()
    news, follows = outbox.news()
    told = (*((4, sign) for sign in signs), (5, LogLine(level="info", text="x")))
    assert news == News(told, (), (Result(4),))
    assert follows[0] is vector
    assert len(follows) == 1


def test_an_outbox_tells_while_the_training_goes_on():
    outbox = Outbox()
    news = outbox.news()
    threading.Thread(target=outbox.sign, args=(1, LogLine(level="info", text="first"))).start()
    assert next(news).signs[0][1].text == "first"
    outbox.sign(1, LogLine(level="info", text="second"))
    assert next(news).signs[0][1].text == "second"
    outbox.end()
    assert list(news) == []


# before anything runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": 0}, "workers must be a whole number from 1"),
        ({"workers": True}, "workers must be a whole number from 1"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be a number from 0"),
        ({"engine": SerialEngine()}, "must be a name or a class"),
        ({"engine": "warp"}, "no engine named 'warp'"),
        ({"engine": "ray"}, "cannot have workers themselves"),
        ({"engine": "serial", "lane": False}, "cannot be made"),
    ],
)
def test_arguments_of_no_use_are_refused_before_there_is_a_cluster(arguments, words):
    with pytest.raises(UsageError, match=words):
        Federation.from_arrays(np.ones((4, 1)), np.ones(4), partition=IID(2), engine=RayEngine(**arguments))


@pytest.mark.parametrize(
    ("tasks", "sizes"), [(1, [1]), (10, [5, 5]), (11, [6, 5]), (100, [24, 24, 18, 18, 8, 8]), (64, [24, 24, 8, 8])]
)
def test_who_is_trained_together_follows_from_the_order_of_the_tasks(tasks, sizes):
    engine = RayEngine(2, engine="cohort")
    engine.open(Federation({"a": (np.ones((2, 1)), np.ones(2))})._data, default_host())
    engine._waiting = {number: Job(number, task()) for number in range(tasks)}
    engine._form_groups(2)
    engine._waiting = dict(reversed(engine._waiting.items()))  # another one is asked for first
    found = []
    while engine._waiting:
        jobs = engine._next_jobs(None)
        found.append(len(jobs))
        for job in jobs:
            del engine._waiting[job.number]
    assert found == sizes[::-1]


def test_it_is_found_by_name():
    assert isinstance(Federation({"a": (np.ones((2, 1)), np.ones(2))}, engine="ray")._engine, RayEngine)


def test_a_plugin_that_is_not_installed_is_refused():
    host = PluginHost.discover([])
    offer = hookimpl(lambda: [Component("mine", SerialEngine)])
    host.register(types.SimpleNamespace(fedplug_register_engines=offer), "mine")
    with pytest.raises(UsageError, match="'mine' was registered in this process"):
        Federation({"a": (np.ones((2, 1)), np.ones(2))}, engine=RayEngine(), host=host)


def test_versions_are_compared_one_by_one():
    ours = versions(PluginHost.discover([]))
    assert {"Python", "fedplug", "numpy"} <= ours.keys()
    require_same(ours, {**ours, "plugin more": "1"}, "there")
    lacking = {name: version for name, version in ours.items() if name != "numpy"}
    with pytest.raises(EngineError, match=r"on attic is not like this process: Python is 2\.7 there and .* numpy is"):
        require_same(ours, {**lacking, "Python": "2.7"}, "attic")


def test_data_of_both_kinds_can_be_pickled():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    shared = Federation.from_arrays(x, y, partition=IID(3), seed=1)._data
    own = Federation({"a": (x, y), "b": {"x": x, "kind": np.array(list("uvwxyz"))}})._data
    for data in (shared, own):
        back = pickle.loads(pickle.dumps(data))
        for node in data.ids:
            assert back.card(node) == data.card(node)
            for name, values in data.dataset(node).arrays().items():
                assert np.array_equal(back.dataset(node).arrays()[name], values)
    assert not back.dataset("a").arrays()["x"].flags.writeable
