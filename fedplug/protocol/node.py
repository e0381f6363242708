"""The node's state machine: one researcher, the tasks it gave, and what became of them. No I/O, no clock of its own.

Feed it with what the channel reports (`on`), with time (`tick`, not later than `deadline`) and with what the
node has to say (`answer_search`, `report`, `finish`, `fail`); carry out what `take` returns. Sessions
and liveness are in `fedplug.protocol.membership`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fedplug.core.errors import CodecError, UsageError
from fedplug.core.link import PlanAsked, SearchReceived, TaskCancelled, TaskReceived, UpdateCommitted
from fedplug.core.messages import DatasetCard, LogLine, PlanAnswer, Progress, TaskFailure, TaskKey, TrainReply
from fedplug.core.params import Params, allocate
from fedplug.core.plan_source import MAX_SOURCE, PlanBundle
from fedplug.protocol.actions import Deliver, Send
from fedplug.protocol.bodies import PARAMS, PLAN, Assembly, Slot, chunks, place, unpack, verified
from fedplug.protocol.jobs import FETCHING, FINISHED, RUNNING, Job
from fedplug.protocol.membership import Membership
from fedplug.protocol.pulls import Arrived
from fedplug.protocol.sessions import CHUNK_SUMS
from fedplug.wire import encode_header, plan_of
from fedplug.wire import headers as h
from fedplug.wire.checks import MAX_DETAILS, MAX_LINE, check_header


class NodeMachine(Membership):
    """See the module. Arguments as `Membership`."""

    # -- what the node has to say -------------------------------------------------------------------------------

    def answer_search(self, query: int, cards: Sequence[DatasetCard], now: float) -> None:
        """As `ResearcherLink.answer_search`."""
        self._checked(h.Datasets(session=self.session, query=query, cards=tuple(cards)))
        if query == self._query:
            self._cards = tuple(cards)
            self._tell(h.Datasets(session=self.session, query=query, cards=self._cards), now)

    def answer_plan(self, query: int, answer: PlanAnswer, now: float) -> None:
        """As `ResearcherLink.answer_plan`."""
        self._checked(h.PlanStatus(session=self.session, query=query, answer=answer))
        if self._plan_asked is not None and query == self._plan_asked.query:
            self._plan_answer = answer
            self._tell(h.PlanStatus(session=self.session, query=query, answer=answer), now)

    def report(self, message: Progress | LogLine, now: float) -> None:
        """As `ResearcherLink.report`.

        What a task says within its first moments goes out together, with its acknowledgement or its end.
        """
        if isinstance(message, LogLine) and len(message.text) > MAX_LINE:
            message = msgspec.structs.replace(message, text=message.text[: MAX_LINE - 1] + "…")
        self._signs.put(message)
        if self._ack_due is None:
            self._flush_signs(now)

    def finish(self, reply: TrainReply, params: Params, aux: Mapping[str, Params] | None, now: float) -> None:
        """As `ResearcherLink.finish`.

        Raises:
            UsageError: No such task was received, or the extra arrays are not those that the reply names.
            CodecError: The reply does not fit into a message.
        """
        aux = aux or {}
        if set(aux) != set(reply.aux):
            raise UsageError(f"Task {reply.key}: `reply.aux` names {reply.aux}, but the arrays are {tuple(aux)}.")
        job = self._running(reply.key)
        if job is None:
            return
        # Tried on a copy first: what cannot travel is refused here and leaves the task running.
        trial = Job(job.key)
        trial.finish(reply, params, aux)
        trial.message((2**62, 2**62), self._limits.inline)
        job.finish(reply, params, aux)
        self._tell_end(job, now)

    def fail(self, failure: TaskFailure, now: float) -> None:
        """As `ResearcherLink.fail`. Overlong texts are cut."""
        details = failure.details[-MAX_DETAILS // 4 :]  # The end of a traceback says most.
        job = self._running(failure.key)
        if job is not None:
            job.fail(msgspec.structs.replace(failure, text=failure.text[: MAX_LINE // 4], details=details))
            self._tell_end(job, now)

    def _running(self, key: TaskKey) -> Job | None:
        """The job to end; None if it has ended already (cancelled meanwhile, or told twice)."""
        job = self._jobs.get(key)
        if job is not None and job.state == RUNNING:
            return job
        if job is None and key not in self._ends:
            raise UsageError(f"Task {key} was never received.")
        self.stats["ends_late"] += 1
        return None

    # -- what the researcher says -------------------------------------------------------------------------------

    def _on_search(self, header: h.Search, body: memoryview, now: float) -> None:
        if header.query == self._query:
            if self._cards is not None:
                self._tell(h.Datasets(session=self.session, query=header.query, cards=self._cards), now)
            return
        self._query, self._cards = header.query, None
        self._do(Deliver(SearchReceived(header.query, header.tags)))

    def _on_plan_ask(self, header: h.PlanAsk, body: memoryview, now: float) -> None:
        if self._plan_asked is not None and header.query == self._plan_asked.query:
            if self._plan_answer is not None:
                self._tell(h.PlanStatus(session=self.session, query=header.query, answer=self._plan_answer), now)
            return
        if len(body) != (header.plan.nbytes if header.plan.inline else 0) or header.plan.nbytes > MAX_SOURCE:
            raise CodecError("PLAN_ASK: the plan has another size than is announced, or is too large.")
        self._puller.drop("", lambda token: token[0] is None)
        self._plan_asked, self._plan_answer = header, None
        if not header.submit:
            self._do(Deliver(PlanAsked(header.query, header.plan.id, header.dataset)))
        elif self._plan is not None and self._plan.hash == header.plan.id:
            self._plan_here(header, self._plan, now)
        elif header.plan.inline and verified(Slot(header.plan, None), body):
            self._plan_here(header, bytes(body), now)
        else:
            self._puller.add("", header.plan, None, allocate(header.plan.nbytes), (None, header.query))
            self._grant(now)

    def _plan_here(self, header: h.PlanAsk, data: Any, now: float) -> None:
        """The plan that is to be approved is here."""
        try:
            plan = self._decode_plan(data, header.plan.id)
        except CodecError as error:
            self.answer_plan(header.query, PlanAnswer(plan=header.plan.id, status="refused", note=error.message), now)
            return
        self._do(Deliver(PlanAsked(header.query, header.plan.id, header.dataset, plan, header.description)))

    def _on_task(self, header: h.Task, body: memoryview, now: float) -> None:
        key = header.request.key
        if key.node_id != self.info.node_id:
            raise CodecError(f"The task is for node {key.node_id!r}, this is {self.info.node_id!r}.")
        job = self._jobs.get(key)
        if job is not None:
            self.stats["tasks_duplicate"] += 1
            if job.ended:
                self._tell_end(job, now)
            else:
                self._tell(h.TaskAck(session=self.session, key=key, state="held"), now)
            return
        if key in self._ends:
            self.stats["tasks_duplicate"] += 1
            self._tell(h.TaskAck(session=self.session, key=key, state=self._ends.get(key)), now)
            return
        job = self._jobs[key] = Job(key, header.request, ack_due=now + self._limits.ack_delay)
        try:
            slots, parts = unpack(header, body)
            self._require_room(slots)
            job.assembly = Assembly(slots)
            self._collect(job, parts)
        except CodecError as error:
            self._fail_job(job, "bad-task", error.message, now)
            return
        except Exception as error:  # noqa: BLE001 - the supervisor's allocator: shared memory may be full
            self._fail_job(job, "no-space", f"There is no room for the task's arrays: {error}.", now)
            return
        self._start_if_complete(job, now)
        self._grant(now)

    def _require_room(self, slots: Mapping[str, Slot]) -> None:
        """Refuse what is too large before any memory is taken for it."""
        size = sum(entry.ref.nbytes for slot, entry in slots.items() if slot != PLAN)
        if size > self._limits.task:
            raise CodecError(f"The task has {size:,} bytes of arrays; this node accepts {self._limits.task:,}.")
        if slots[PLAN].ref.nbytes > MAX_SOURCE:
            raise CodecError(f"The plan has {slots[PLAN].ref.nbytes:,} bytes; {MAX_SOURCE:,} are the most.")

    def _collect(self, job: Job, parts: dict[str, memoryview]) -> None:
        """Put together what rode along and what is cached, and begin to pull the rest."""
        for slot, entry in job.assembly.slots.items():
            data = parts.get(slot)
            if data is not None and verified(entry, data):
                dest = self._memory(slot, data.nbytes)
                job.assembly.put(slot, place(data, dest))
            elif slot == PLAN and self._plan is not None and self._plan.hash == entry.ref.id:
                job.assembly.raw[slot] = self._plan
            elif slot == PARAMS and self._model is not None and self._model.fingerprint() == entry.ref.id:
                job.assembly.params[slot] = self._model
            else:
                if data is not None:
                    self.stats["blobs_damaged"] += 1
                if slot == PARAMS:
                    self._model = None  # Let its memory go before the next one comes.
                self._puller.add("", entry.ref, entry.spec, self._memory(slot, entry.ref.nbytes), (job.key, slot))

    def _on_chunk(self, header: h.Chunk, body: memoryview, now: float) -> None:
        self._arrived(self._puller.on_chunk("", header.blob, header.index, header.crc, body), now)
        self._grant(now)

    def _on_sums(self, header: h.Sums, body: memoryview, now: float) -> None:
        self._arrived(self._puller.on_sums("", header.blob, header.first, header.crcs), now)
        self._grant(now)

    def _on_error(self, header: h.Error, body: memoryview, now: float) -> None:
        self._arrived(self._puller.fail("", header.blob, f"the researcher does not have it: {header.text}"), now)

    def _on_get(self, header: h.Get, body: memoryview, now: float) -> None:
        for job in self._jobs.values():
            blob = job.find(header.blob)
            if blob is None:
                continue
            job.due = 0.0
            if self.backlog > self._limits.peer_backlog:
                self.stats["gets_ignored"] += 1
                return
            for frame in chunks(blob, header, self.session, self._limits, bare=CHUNK_SUMS in self._shared):
                self._do(Send(b"", *frame))
            return
        text = "The node holds no such update."
        self._tell(h.Error(session=self.session, code="no-blob", text=text, blob=header.blob), now)

    def _on_committed(self, header: h.Committed, body: memoryview, now: float) -> None:
        for key in header.keys:
            job = self._jobs.get(key)
            if job is not None and job.ended:
                self._forget(key, job.failure.code if job.failure else "committed")
                if job.state == FINISHED:
                    self._do(Deliver(UpdateCommitted(key)))

    def _on_cancel(self, header: h.Cancel, body: memoryview, now: float) -> None:
        job = self._jobs.get(header.key)
        self._forget(header.key, "cancelled")
        # A task that is still being fetched was never reported, so there is nothing to take back.
        if job is not None and job.state in (RUNNING, FINISHED):
            self._do(Deliver(TaskCancelled(header.key, header.reason)))
        self._grant(now)

    # -- tasks --------------------------------------------------------------------------------------------------

    def _arrived(self, arrived: Arrived | None, now: float) -> None:
        if arrived is None:
            return
        for (key, slot), dest in arrived.pull.waiting:
            if key is None:
                self._plan_arrived(slot, dest, arrived.problem, now)
                continue
            job = self._jobs.get(key)
            if job is None or job.state != FETCHING:
                continue
            if arrived.problem:
                self._fail_job(job, "bad-blob", f"What belongs to the task cannot be had: {arrived.problem}.", now)
                continue
            job.assembly.put(slot, dest)
            self._start_if_complete(job, now)

    def _plan_arrived(self, query: int, data: Any, problem: str, now: float) -> None:
        header = self._plan_asked
        if header is None or header.query != query or self._plan_answer is not None:
            return
        if problem:
            note = f"The plan cannot be had: {problem}."
            self.answer_plan(query, PlanAnswer(plan=header.plan.id, status="refused", note=note), now)
        else:
            self._plan_here(header, data, now)

    def _start_if_complete(self, job: Job, now: float) -> None:
        assembly = job.assembly
        if job.state != FETCHING or job.request is None or not assembly.complete:
            return
        try:
            plan = self._decode_plan(assembly.raw[PLAN], assembly.slots[PLAN].ref.id)
        except CodecError as error:
            self._fail_job(job, "bad-plan", error.message, now)
            return
        job.state = RUNNING
        self._plan, self._model = plan, assembly.params[PARAMS]
        job.assembly = Assembly({})
        self._do(Deliver(TaskReceived(job.request, plan, self._model, assembly.aux)))

    def _decode_plan(self, data: Any, blob_id: str) -> PlanBundle:
        return data if isinstance(data, PlanBundle) else plan_of(data, blob_id)

    def _memory(self, slot: str, nbytes: int) -> Any:
        return (allocate if slot == PLAN else self._allocate)(nbytes)

    def _fail_job(self, job: Job, code: str, text: str, now: float) -> None:
        """End a task that was never reported to the node."""
        self._puller.drop("", lambda token: token[0] == job.key)
        job.fail(TaskFailure(key=job.key, code=code, text=text[:2000]))
        self._tell_end(job, now)

    def _forget(self, key: TaskKey, how: str) -> None:
        self._jobs.pop(key, None)
        self._ends.close(key, how)
        self._puller.drop("", lambda token: token[0] == key)

    def _checked(self, header: h.AnyHeader) -> None:
        """Refuse here, with the caller, what the other side would refuse."""
        check_header(header)
        encode_header(header)
