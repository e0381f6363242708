"""The researcher's state machine: many nodes, their tasks, and what comes back. No I/O, no clock of its own.

Feed it with what the transport reports (`on`), with time (`tick`, not later than `deadline`) and with what the
experiment wants (`search`, `train`, `fetch`, `commit`, `cancel`); carry out what `take` returns. Sessions
and liveness are in `fedplug.protocol.roster`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.messages import LogLine, PlanAnswer, Progress, TaskFailure, TaskKey, TrainRequest
from fedplug.core.params import Params, allocate
from fedplug.core.plan_source import PlanBundle
from fedplug.core.pool import Allocate, DatasetsFound, PlanAnswered, TaskFailed, UpdateFetched
from fedplug.protocol.actions import Deliver, Sign
from fedplug.protocol.bodies import AUX, PARAMS, PLAN, Assembly, pack, place, unpack, verified
from fedplug.protocol.pulls import Arrived
from fedplug.protocol.roster import Roster
from fedplug.protocol.sessions import JOURNAL, PLAN_STATUS, Node
from fedplug.protocol.tasks import FETCHED, FETCHING, OFFERED, SENT, WAITING, Task
from fedplug.wire import Blob, decode_header, encode_header
from fedplug.wire import headers as h

COMMITTED = "committed"
CANCELLED = "cancelled"
FAILED = "failed"

RUNS_ALL = "not required"
"""What is to be said for a node that was made before there was approval: it runs every plan."""

_FORGOTTEN = frozenset((COMMITTED, CANCELLED, "expired"))
"""Ends of a task after which its update is not to be had any more: only another attempt brings one."""

INTERRUPTED = "The node was restarted while it worked on this task."


class ResearcherMachine(Roster):
    """See the module. Arguments as `Roster`."""

    # -- what the experiment wants ------------------------------------------------------------------------------

    def search(self, query: int, tags: tuple[str, ...], node_ids: tuple[str, ...] | None, now: float) -> None:
        """As `NodePool.search`."""

        def message(node: Node) -> tuple[bytes, bytes]:
            return encode_header(h.Search(session=node.session, query=query, tags=tags)), b""

        self._search.pose(query, message, None if node_ids is None else frozenset(node_ids))
        for node in self._present():
            self._ask(self._search, node, now)

    def ask_plan(
        self, query: int, plan: PlanBundle, datasets: Mapping[str, str], description: str | None, now: float
    ) -> None:
        """As `NodePool.ask_plan`.

        Raises:
            CodecError: The description does not fit into a message.
        """
        blob = self._plan_blob = Blob.of_plan(plan)
        submit = description is not None

        def encoded(session: h.Session, dataset: str) -> tuple[bytes, bytes]:
            packed = pack({PLAN: blob}, self._limits.inline if submit else -1)
            header = h.PlanAsk(
                session=session, query=query, plan=packed.refs[PLAN], class_name=plan.class_name,
                dataset=dataset, submit=submit, description=description or "",
            )  # fmt: skip
            return encode_header(header), packed.body

        def message(node: Node) -> tuple[bytes, bytes] | None:
            if PLAN_STATUS not in node.capabilities:
                if self._plan_question.take_answer(node, query):
                    self._do(Deliver(PlanAnswered(node.node_id, query, PlanAnswer(plan=plan.hash, status=RUNS_ALL))))
                return None
            return encoded(node.session, datasets[node.node_id])

        for node_id, dataset in datasets.items():
            self._node(node_id)
            decode_header(encoded((2**62, 2**62), dataset)[0])  # What cannot travel is refused here.
        self._plan_question.pose(query, message, frozenset(datasets))
        for node in self._present():
            self._ask(self._plan_question, node, now)

    def train(
        self, request: TrainRequest, plan: PlanBundle, params: Params, aux: Mapping[str, Params] | None, now: float
    ) -> None:
        """As `NodePool.train`.

        Raises:
            UsageError: The key was used before, or the extra arrays are not those that the request names.
            CodecError: The request does not fit into a message.
        """
        key = request.key
        aux = aux or {}
        node = self._node(key.node_id)
        if key in node.tasks or key in self._ends:
            raise UsageError(f"Task {key} was given out before.", cure="Raise `attempt` to train once more.")
        if set(aux) != set(request.aux):
            raise UsageError(f"Task {key}: `request.aux` names {request.aux}, but the arrays are {tuple(aux)}.")
        blobs = {PLAN: Blob.of_plan(plan), PARAMS: self._blob(params)}
        blobs.update({AUX + name: self._blob(aux[name]) for name in request.aux})
        task = Task(request, blobs)
        task.encode((2**62, 2**62), frozenset(), self._limits.inline)  # What cannot travel is refused here.
        for stranger in node.strangers - {key}:
            self._tell(node, h.Cancel(session=node.session, key=stranger, reason="stale: the experiment has moved on"))
        node.strangers.clear()
        node.tasks[key] = task
        node.moved_on = True
        if node.peer is not None:
            self._send_task(node, task, now)

    def fetch(self, key: TaskKey, dest: Allocate | None, now: float, settle: Callable[[], None] | None = None) -> None:
        """As `NodePool.fetch`. What ``dest`` raises comes back to the caller."""
        task = self._open_task(key)
        if task is None:
            return
        if task.state != OFFERED:
            if task.state in (FETCHING, FETCHED):
                return
            raise UsageError(f"Task {key} has not been offered yet, so there is nothing to fetch.")
        dest = dest or allocate
        memory = {slot: dest(entry.ref.nbytes) for slot, entry in task.assembly.slots.items()}
        task.state = FETCHING
        parts, task.parts = task.parts, {}
        for slot, data in parts.items():
            task.assembly.put(slot, place(data, memory[slot]))
        try:
            for slot, entry in task.assembly.slots.items():
                if slot not in parts:
                    self._puller.add(key.node_id, entry.ref, entry.spec, memory[slot], (key, slot), settle)
        except CodecError as error:
            self._give_up(task, "bad-offer", error.message, now)
        self._fetched_if_complete(task)
        self._grant(now)

    def commit(self, key: TaskKey, now: float) -> None:
        """As `NodePool.commit`."""
        node = self._node(key.node_id)
        if key in node.tasks or key not in self._ends:
            self._close(key, COMMITTED)
            node.strangers.discard(key)
            self._answer_end(node, key)

    def cancel(self, key: TaskKey, reason: str, now: float) -> None:
        """As `NodePool.cancel`."""
        node = self._node(key.node_id)
        self._close(key, CANCELLED)
        self._tell(node, h.Cancel(session=node.session, key=key, reason=reason[:1000]))
        self._grant(now)

    def late(self) -> list[TaskKey]:
        """As `NodePool.late`."""
        return self._ends.take_late()

    # -- what nodes say -----------------------------------------------------------------------------------------

    def _on_datasets(self, node: Node, header: h.Datasets, body: memoryview, now: float) -> None:
        if not self._search.take_answer(node, header.query):
            self.stats["answers_stale"] += 1
            return
        self._do(Deliver(DatasetsFound(node.node_id, header.query, header.cards)))

    def _on_plan_status(self, node: Node, header: h.PlanStatus, body: memoryview, now: float) -> None:
        if not self._plan_question.take_answer(node, header.query):
            self.stats["answers_stale"] += 1
            return
        self._do(Deliver(PlanAnswered(node.node_id, header.query, header.answer)))

    def _on_task_ack(self, node: Node, header: h.TaskAck, body: memoryview, now: float) -> None:
        task = node.tasks.get(header.key)
        if task is None:
            return
        task.acked = True
        if header.state != "held" and task.state in (WAITING, SENT):
            code = "update-lost" if header.state in _FORGOTTEN else header.state
            ended = f"The node has had this task before, and keeps nothing of it: {header.state}."
            self._give_up(task, code, INTERRUPTED if code == "interrupted" else ended, now)

    def _on_offer(self, node: Node, header: h.Offer, body: memoryview, now: float) -> None:
        key = header.reply.key
        if key.node_id != node.node_id:
            raise CodecError(f"It offered the update of another node ({key}).")
        task = node.tasks.get(key)
        if task is None:
            if self._ends.get(key) == CANCELLED:
                self.stats["offers_late"] += 1
                self._ends.came_late(key)
            self._answer_end(node, key)
            return
        if task.reply is not None:
            self.stats["offers_duplicate"] += 1
            return
        try:
            slots, parts = unpack(header, body)
            size = sum(slot.ref.nbytes for slot in slots.values())
            if size > self._limits.offer:
                raise CodecError(f"The update has {size:,} bytes; at most {self._limits.offer:,} are accepted.")
            if not all(verified(slots[slot], data) for slot, data in parts.items()):
                raise CodecError("The arrays do not have the digest that was promised.")
        except CodecError as error:
            self.stats["offers_refused"] += 1
            self._give_up(task, "bad-offer", error.message, now)
            return
        self._do(Deliver(task.offered(header.reply, Assembly(slots), parts)))

    def _on_error(self, node: Node, header: h.Error, body: memoryview, now: float) -> None:
        failure = header.failure
        if failure is None:
            if header.blob:
                self._arrived(self._puller.fail(node.node_id, header.blob, f"the node lacks it: {header.text}"), now)
            return
        if failure.key.node_id != node.node_id:
            raise CodecError(f"It reported the failure of another node's task ({failure.key}).")
        if failure.key in node.tasks:
            self._close(failure.key, FAILED)
            self._do(Deliver(TaskFailed(failure)))
        self._tell(node, h.Committed(session=node.session, keys=(failure.key,)))

    def _on_event(self, node: Node, header: h.Event, body: memoryview, now: float) -> None:
        messages: list[Progress | LogLine] = [*header.progress, *header.logs]
        for message in messages:
            self._do(Sign(node.node_id, message))

    def _on_get(self, node: Node, header: h.Get, body: memoryview, now: float) -> None:
        blob = next((b for task in node.tasks.values() if (b := task.find(header.blob))), None)
        if blob is None and self._plan_blob is not None and self._plan_blob.id == header.blob:
            blob = self._plan_blob
        self._serve(node, blob, header)

    def _on_chunk(self, node: Node, header: h.Chunk, body: memoryview, now: float) -> None:
        self._arrived(self._puller.on_chunk(node.node_id, header.blob, header.index, header.crc, body), now)
        self._grant(now)

    def _on_sums(self, node: Node, header: h.Sums, body: memoryview, now: float) -> None:
        self._arrived(self._puller.on_sums(node.node_id, header.blob, header.first, header.crcs), now)
        self._grant(now)

    def _on_held(self, node: Node, held: tuple[TaskKey, ...]) -> None:
        for key in held:
            task = node.tasks.get(key)
            if task is not None:
                task.acked = True
            else:
                self._answer_end(node, key)

    # -- tasks --------------------------------------------------------------------------------------------------

    def _resume_tasks(self, node: Node, held: frozenset[TaskKey], now: float) -> None:
        """A new session with a node: make its tasks and ours agree."""
        for task in list(node.tasks.values()):
            if task.key in held:
                task.acked, task.state = True, SENT if task.state == WAITING else task.state
                task.incarnation = node.session[0]
            elif task.state == WAITING or (task.state == SENT and _may_resend(task, node)):
                self._send_task(node, task, now)
            elif task.state == SENT:
                self._give_up(task, "interrupted", INTERRUPTED, now)
            elif not (task.state == FETCHED or len(task.parts) == len(task.assembly.slots)):
                self._give_up(task, "update-lost", "The node was restarted before its update was fetched.", now)
        for key in held:
            if key not in node.tasks:
                self._answer_end(node, key)

    def _send_task(self, node: Node, task: Task, now: float) -> None:
        header, body = task.message(node, self._limits.inline)
        task.state = SENT
        task.incarnation = node.session[0]
        task.acked = False
        task.wait = min(2 * task.wait or self._limits.repeat, self._limits.repeat_longest)
        task.due = now + task.wait
        self._send(node, header, body, now)

    def _repeat_tasks(self, node: Node, now: float) -> None:
        for task in node.tasks.values():
            if task.state == SENT and not task.acked and now >= task.due:
                self.stats["tasks_repeated"] += 1
                self._send_task(node, task, now)

    def _arrived(self, arrived: Arrived | None, now: float) -> None:
        if arrived is None:
            return
        for (key, slot), dest in arrived.pull.waiting:
            task = self._node(key.node_id).tasks.get(key)
            if task is None:
                continue
            if arrived.problem:
                self._give_up(task, "bad-update", f"The update cannot be used: {arrived.problem}.", now)
            else:
                task.assembly.put(slot, dest)
                self._fetched_if_complete(task)

    def _fetched_if_complete(self, task: Task) -> None:
        if task.state == FETCHING and task.assembly.complete and task.reply is not None:
            task.state = FETCHED
            params = task.assembly.params[PARAMS]
            self._do(Deliver(UpdateFetched(task.reply, params, task.assembly.aux)))
            task.assembly = Assembly({})

    def _give_up(self, task: Task, code: str, text: str, now: float) -> None:
        """End a task that the node, as far as we know, cannot bring to an end."""
        node = self._node(task.key.node_id)
        self._close(task.key, FAILED)
        self._do(Deliver(TaskFailed(TaskFailure(key=task.key, code=code, text=text))))
        self._tell(node, h.Cancel(session=node.session, key=task.key, reason=f"{code}: {text}"[:1000]))

    def _close(self, key: TaskKey, how: str) -> None:
        self._ends.close(key, how)
        self._node(key.node_id).tasks.pop(key, None)
        self._puller.drop(key.node_id, lambda token: token[0] == key)

    def _answer_end(self, node: Node, key: TaskKey) -> None:
        """A node holds a task that is not open here: say how it ended, or wait whether somebody asks for it."""
        how = self._ends.get(key)
        if how == COMMITTED:
            self._tell(node, h.Committed(session=node.session, keys=(key,)))
        elif how:
            self._tell(node, h.Cancel(session=node.session, key=key, reason=f"{how} before"))
        elif node.moved_on:
            self._tell(node, h.Cancel(session=node.session, key=key, reason="stale: the experiment has moved on"))
        else:
            node.strangers.add(key)

    def _open_task(self, key: TaskKey) -> Task | None:
        """The task; None if it has ended.

        Raises:
            UsageError: There was never such a task.
        """
        task = self._node(key.node_id).tasks.get(key)
        if task is None and key not in self._ends:
            raise UsageError(f"There is no task {key}.", cure="`train` gives tasks out.")
        return task

    def _blob(self, params: Params) -> Blob:
        """One `Blob` for all tasks that send the same arrays, so that its checksums are taken once."""
        blob = self._blobs.get(params.fingerprint())
        if blob is None:
            blob = self._blobs[params.fingerprint()] = Blob.of_params(params)
        return blob


def _may_resend(task: Task, node: Node) -> bool:
    """Whether a node that does not hold a task it was sent is given it again: it never trains one twice if it can tell.

    In the same run it can. A node that was restarted can if it keeps a journal.
    """
    return task.incarnation == node.session[0] or JOURNAL in node.capabilities
