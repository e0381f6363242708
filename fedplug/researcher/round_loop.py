"""The rounds of an experiment: what happens between the settings and one `Round`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fedplug.core.context import RoundContext, RoundResult
from fedplug.core.ctrl_c import ctrl_c_waits
from fedplug.core.errors import FedplugError, FedplugWarning, RoundError, SettingsError, UsageError
from fedplug.core.messages import LogLine, Progress
from fedplug.core.rng import SeedTree
from fedplug.researcher.breakpoints import breakpoints_of, read_breakpoint
from fedplug.researcher.evaluation import Evaluation, evaluate
from fedplug.researcher.folders import experiments_root
from fedplug.researcher.kept_params import KeptParams
from fedplug.researcher.model_file import save_model
from fedplug.researcher.privacy_file import write_ledger
from fedplug.researcher.resume import Resumable
from fedplug.researcher.round import Round, RoundPlan
from fedplug.researcher.round_journal import RoundJournal
from fedplug.researcher.schedule import Schedule, rounds_to_run
from fedplug.researcher.search import await_nodes, usable_nodes
from fedplug.researcher.settings.base import checked_flag
from fedplug.researcher.snapshot import Acked
from fedplug.researcher.spool import Spool
from fedplug.researcher.trial import Undo, trial

T = TypeVar("T")

MEMORY_BUDGET = 16 * 1024 * 1024
"""Bytes of memory that updates which wait for their turn may take together."""


class RoundLoop(Resumable):
    """The part of an experiment that runs rounds."""

    _seeds: SeedTree
    _first_attempt: int
    _attempt: int
    _metrics_told = False
    _tried: int = -1  # the round that this process has begun last
    _given_up: set[str]  # nodes that a round of this run has waited for in vain

    def training_replies(self) -> dict[int, dict[str, dict[str, Any]]]:
        """What the nodes replied, without arrays: round → node id → record."""
        return self.history.replies()

    def privacy(self) -> dict[str, dict[str, Any]]:
        """What the rounds have spent of the nodes' privacy: node id → epsilon, delta and more.

        Empty while ``dp_args`` were never set. It is about all that was published, on whatever path: `load_breakpoint`
        and a model that is set anew take nothing back. See `fedplug.core.privacy_ledger.PrivacyLedger.report`.
        """
        return self._privacy.report()

    def aggregated_params(self) -> KeptParams:
        """The global parameters after each round: ``{round: {"params": Params}}``, read from disk when asked for.

        Those of the last round are always there, those of earlier rounds if ``retain_full_history`` was set.
        """
        last = None if self._params is None or self._round_current == 0 else self._params
        return KeptParams(self._folder, self._kept, self._round_current - 1, last)

    # running -----------------------------------------------------------------------------------------------

    def run(self, rounds: int | None = None, increase: bool = False) -> int:
        """Run rounds.

        Args:
            rounds: How many; None for all up to the round limit. They do not pass the limit.
            increase: Raise the round limit where ``rounds`` would pass it.

        Returns:
            The number of rounds that were run; 0 if the limit is reached.

        Raises:
            UsageError: Settings are missing, or neither ``rounds`` nor a round limit is given.
            RoundError: A round could not be completed. Earlier rounds count; the next `run` goes on from there.
        """
        self._tell_idle_metrics()
        return self._run(rounds, increase)

    def _run(self, rounds: int | None, increase: bool) -> int:
        count, limit = rounds_to_run(rounds, increase, self._round_limit, self._round_current)
        if count == 0:
            self._monitors.message(
                f"The round limit of {self._round_limit} is reached; run(rounds=1, increase=True) goes beyond it."
            )
            return 0
        problems = self.missing()
        if self._save_breakpoints:
            problems += [*self._folder_problems(), *self._unsaveable()]
        if problems:
            raise SettingsError("The experiment cannot run yet. Missing:", problems)
        path, first = self.experimentation_path(), self._round_current
        self._monitors.set_tensorboard(path / "runs" if self._tensorboard else None, self.history.steps())
        self._round_limit = limit
        self._given_up.clear()
        error: BaseException | None = None
        try:
            self._monitors.started(path, self.pool().nodes, count)
            try:
                self._run_rounds(count)
            finally:
                if self._round_current > first:
                    save_model(self.params(), path / "model.safetensors")
            if self._round_current == limit and self._training_args.test_on_global_updates:
                self._test_last()
        except BaseException as caught:
            error = caught
            if isinstance(caught, RoundError):
                caught.cure = f"{caught.cure} {self._way_on()}".strip()
            raise
        finally:
            self._monitors.stopped(self._round_current - first, error)
        return count

    def run_once(self, increase: bool = False, test_after: bool = False) -> int:
        """Run one round: ``run(rounds=1, increase=increase)``.

        Args:
            increase: Raise the round limit if it is reached.
            test_after: Test the new global model after the round, as `evaluate` does. That the test fails is told in
                a warning; the round counts.

        Returns:
            1, or 0 if the round limit is reached.

        Raises:
            UsageError: As for `run`; or no sample is held out to test on.
            RoundError: The round could not be completed.
        """
        if checked_flag("test_after", test_after) and self._training_args.test_ratio == 0:
            raise UsageError(
                "There is nothing to test on after the round: test_ratio is 0, so no node holds out any sample.",
                cure="Call set_test_ratio(0.2), or leave test_after out.",
            )
        if not test_after:
            self._tell_idle_metrics()
        done = self._run(1, increase)
        tested = self._round_current == self._round_limit and self._training_args.test_on_global_updates
        if done and test_after and not tested:
            self._test_last()
        return done

    def evaluate(self) -> Evaluation:
        """Test the global model, as it is now, on what the nodes hold out; nothing is trained.

        It measures what ``set_test_metric`` and the plan's ``testing_step`` say, and needs a ``set_test_ratio`` above
        zero. `run` does it by itself after the last round, if ``test_on_global_updates`` is set.

        Raises:
            UsageError: Settings are missing, or no sample is held out.
            RoundError: A node cannot test, and the strategy does not do without it.
        """
        if problems := self.missing():
            raise SettingsError("The experiment cannot test its model yet. Missing:", problems)
        nodes, schedule = self._schedule()
        self._attempt += 1
        found = self._trial(lambda _: evaluate(
            self.pool(), schedule, nodes, self.params(), number=self._round_current,
            spool=Spool(self.experimentation_path(), MEMORY_BUDGET), strategy=self._strategy,
            aggregator=self.aggregator(), watch=self._watch, monitor=self._monitors,
        ))  # fmt: skip
        with ctrl_c_waits():
            self.history.add_round(found.ctx, found.result, self._names_of(found.ctx.node_ids), trained=False)
        return found

    def _test_last(self) -> None:
        """Test the final model, which no later round does. That it fails is no reason to call the rounds failed."""
        try:
            self.evaluate()
        except FedplugError as error:
            warnings.warn(f"The final model could not be tested: {error}", FedplugWarning, stacklevel=3)
            return
        if self._save_breakpoints:
            self.breakpoint()  # again: what was found belongs to it

    def _tell_idle_metrics(self) -> None:
        """Warn, once, that metrics are set but that no test will measure them."""
        if not self._metrics_told and self._metrics_are_idle():
            self._metrics_told = True
            ratio = "" if self._training_args.test_ratio else ", and set_test_ratio(...)"
            warnings.warn(
                "test_metric is set, but nothing is tested: set_test_on_global_updates(True) or "
                f"set_test_on_local_updates(True){ratio}. evaluate() tests the model whenever you call it.",
                FedplugWarning,
                stacklevel=3,
            )

    def _names_of(self, node_ids: Iterable[str]) -> dict[str, str]:
        connected = self.pool().nodes
        return {node: connected[node].name for node in node_ids if node in connected}

    def _run_rounds(self, count: int) -> None:
        """Run rounds. If the experiment keeps a journal, it is open meanwhile: nobody else can go on with it."""
        journal: RoundJournal | None = None
        if self._save_breakpoints:
            folder = self.experimentation_path()
            if self._journal is None or self._journal.folder != folder:
                self._journal = RoundJournal(folder)
            journal = self._journal
        try:
            if journal is not None:
                journal.open()
            for _ in range(count):
                self._run_round()
        except BaseException:
            if journal is not None:
                with suppress(FedplugError):  # what is under way says more
                    journal.close()
            raise
        if journal is not None:
            journal.close()

    def _run_round(self) -> RoundResult:
        """Run a round. It counts from one moment on, that of `_take_result`; before, nothing of it does."""
        return self._trial(self._try_round)

    def _try_round(self, undo: Undo) -> RoundResult:
        number = self._round_current
        job, spool = self._begin_round(self._plan_round(number))
        self.host.round_start(job.ctx, job.ctx.node_ids)
        self._monitors.round_started(job.ctx, job.ctx.node_ids)
        work = Round(self.pool(), job, spool, self._watch, self._monitors)
        undo.append(partial(self._give_up, work))
        try:
            result = work.run()
            asked = work.job.asked()
            with ctrl_c_waits():
                result = self._privacy.note(work.job.ctx, result, asked)
                self._take_result(work.job.ctx, result)
        finally:
            if self._round_current > number:
                self._write_down(work.job.ctx, result)
        return result

    def _begin_round(self, job: RoundPlan) -> tuple[RoundPlan, Spool]:
        """The round as it is carried out, and where its updates go; with a journal, it is written down now."""
        again, self._tried = self._tried == job.ctx.round, job.ctx.round
        if self._journal is None or not self._save_breakpoints:
            return job, Spool(self.experimentation_path(), MEMORY_BUDGET)
        if self._saved_rounds != self._round_current:
            self.breakpoint()  # what the journal says is about the one before; a full disk may have kept us from it
        return self._journal.begin(job, MEMORY_BUDGET, again=again)

    def _trial(self, act: Callable[[Undo], T]) -> T:
        """Call ``act``, and take back what it has taught anybody unless a round has come to count by then."""
        number = self._round_current
        parts = [part for part in (self.aggregator(), self._agg_optimizer, self._strategy) if part is not None]
        return trial(act, parts, lambda: self._round_current > number)

    def _give_up(self, work: Round) -> None:
        """A round does not count: its attempts are used up all the same, and updates that have come are known."""
        self._attempt = max(self._attempt, work.last_attempt + 1)
        self._privacy.note_unfinished(work.job.ctx, work.replies, work.job.asked())
        with suppress(FedplugError):  # what is under way says more
            write_ledger(self._privacy, self.experimentation_path(), self.id)

    def _way_on(self) -> str:
        """How another process goes on after a round that failed; empty without breakpoints."""
        folder = self._folder
        if not self._save_breakpoints or folder is None or not breakpoints_of(folder):
            return ""
        again = "" if self._transport is None or isinstance(self._transport, str) else ", transport=..."
        return f'To go on in another process: Experiment.load_breakpoint("{folder.name}"{again}).'

    def _take_result(self, ctx: RoundContext, result: RoundResult) -> None:
        """The round is complete, and counts from here on: what the next one needs. Ctrl-C must wait meanwhile."""
        acked = self._acked | {node: Acked(ctx.round, reply.state_id) for node, reply in result.replies.items()}
        self._params, self._acked, self._weights_matter = result.params, acked, True
        self._round_current, self._attempt = ctx.round + 1, self._first_attempt
        self.history.add_round(ctx, result, self._names_of(ctx.node_ids))
        if self._plan is not None:
            self._plan.set_params(result.params)

    def _write_down(self, ctx: RoundContext, result: RoundResult) -> None:
        """A round counts, and the next one could begin: first what is kept of it on disk, then who is told."""
        try:
            try:
                write_ledger(self._privacy, self.experimentation_path(), self.id)
                if self._retain_full_history:
                    self._kept[ctx.round] = self.aggregated_params().keep()
            finally:
                if self._save_breakpoints:
                    self.breakpoint()
        finally:
            self._monitors.round_ended(ctx, result)
            self.host.round_end(ctx, result)

    def _plan_round(self, number: int) -> RoundPlan:
        """Decide everything about a round before anything is sent."""
        nodes, schedule = self._schedule()
        return schedule.plan_round(number, nodes, self.params(), self.aggregator(), self._strategy, self._agg_optimizer)

    def _schedule(self) -> tuple[list[str], Schedule]:
        """The nodes that can be asked, and what they are asked with."""
        if self._training_data is None or self._bundle is None:
            raise UsageError("The experiment cannot run yet.", cure="Missing: " + "; ".join(self.missing()))
        self.training_plan().check_args(self._training_args)
        nodes = usable_nodes(self._training_data, self._nodes, self.pool().nodes)
        await_nodes(self.pool(), nodes, self._connect_timeout, self._monitors.message, self._watch, self._given_up)
        return nodes, Schedule(
            experiment_id=self.id,
            seeds=self._seeds,
            bundle=self._bundle,
            model_args=self._model_args,
            training_args=self._training_args,
            datasets=self._training_data.dataset_ids(),
            acked=self._acked,
            attempt=self._attempt,
            total_rounds=self._round_limit or 0,
            host=self.host,
            buffers=self.training_plan().buffer_names(),
            samples=self._training_data.most_samples(),
        )

    def _watch(self, sign: Progress | LogLine, node_id: str) -> None:
        if isinstance(sign, Progress):
            self._monitors.progress(node_id, sign)
        else:
            self._monitors.log(node_id, sign)

    def _folder_problems(self) -> list[str]:
        """Whether breakpoints of another experiment lie where this one's would go."""
        if self._folder_name is None:
            return []
        for point in reversed(breakpoints_of(experiments_root() / self._folder_name)):
            try:
                other = read_breakpoint(point, trusted=True, arrays=False).snapshot.experiment_id
            except FedplugError:
                continue
            if other == self.id:
                return []
            problem = f"a folder of its own: {self._folder_name!r} holds breakpoints of another experiment."
            return [
                f"{problem} Experiment(experimentation_folder=...) chooses another; load_breakpoint goes on from it."
            ]
        return []
