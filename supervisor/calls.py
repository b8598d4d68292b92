"""Worker calls of one run: from the cell's ``worker(prompt, …)`` to a line in the log.

Whatever serves them (the fleet, or any ModelHandler), a call is in ``worker.jsonl`` before
its answer is released to the cell.
"""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.accounts import Account
from distill.errors import BudgetError, WorkerBatchError, WorkerBudgetError, WorkerError
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.supervisor.answer_cache import AnswerCache
from distill.supervisor.answer_form import ONE_TEXT, AnswerForm
from distill.supervisor.asked import Asked, logged_sampling
from distill.supervisor.backends import Backend
from distill.supervisor.call_budget import CallBudget
from distill.supervisor.call_lines import CallLines
from distill.supervisor.call_options import (
    OWN_OPTIONS,
    conversations_of,
    model_of,
    parse_answer,
    sampling_of,
)
from distill.supervisor.driver import Driver
from distill.supervisor.earlier_answers import EarlierAnswers
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.readings import Reading, passage_of
from distill.supervisor.recorded import fill_spares, times_resumed
from distill.supervisor.requests import Outcome, Questions, Submission, frames
from distill.supervisor.run_log import RunLog
from distill.supervisor.spare_calls import SpareCalls
from distill.supervisor.tally import Tally
from distill.supervisor.tariff import Tariff
from distill.supervisor.text import printable
from distill.traces import Run, records

NO_CALL = HostCallRecord(0, 0, "", (), {}, 0.0)


class WorkerCalls:
    """The ``worker`` and ``worker_batch`` of one run. ``defaults`` are sampling parameters.

    ``cache`` has answers from before, if it is there; ``budget`` says what may be sent.
    """

    def __init__(
        self,
        driver: Driver,
        backend: Backend,
        log: RunLog,
        index: SpanIndex,
        *,
        context_sha256: str = "",
        record: Record = "ids",
        defaults: Mapping[str, Any] | None = None,
        cache: AnswerCache | None = None,
        budget: CallBudget | None = None,
        on_progress: Callable[[], None] = lambda: None,
        keeps_spares: bool = True,
    ) -> None:
        self._budget = budget or CallBudget(Account(), Tariff())
        self._settled = asyncio.Event()
        """A call has left something of what was reserved for it; or there are to be no more."""
        self._stopped: WorkerError | None = None
        self._driver = driver
        self._backend = backend
        self._log = log
        self._lines = CallLines(log, index, context_sha256, backend.name)
        self.spares = SpareCalls(log.call_line)
        self._earlier = EarlierAnswers(driver, backend, self._lines, self.spares, cache)
        self._record = record
        self._defaults = dict(defaults or {})
        self._on_progress = on_progress
        self._keeps_spares = keeps_spares
        self._asked: dict[str, Asked] = {}
        """By the beginning that the names of their requests have in common."""
        self._ended = False
        self._names = log.run
        """What the names of its requests begin with."""
        self._numbers = itertools.count(1)
        self.tally = Tally()
        self.readings: list[Reading] = []
        self.spans: list[records.Span] = []

    # -- host functions, called in threads of the pool

    def worker(self, prompt: Any, **options: Any) -> Any:
        """Ask the worker model about one prompt: a text, or a list of messages.

        Options: max_tokens, temperature, top_p, top_k, min_p, presence_penalty,
        frequency_penalty, repetition_penalty, stop, seed, schema, choices, regex, system, chat,
        model (the name of another worker model that is up), n (answers to each prompt, as a list)
        and logprobs (True: each answer as a dict of text, token_ids and logprobs).
        """
        try:
            return self._wait("worker", [prompt], options)[0]
        except WorkerBudgetError:
            raise
        except WorkerBatchError as error:
            raise error.errors[0] from error

    def worker_batch(self, prompts: Any, **options: Any) -> list[Any]:
        """Ask about many prompts at once; answers come in their order. Options as ``worker``."""
        return self._wait("worker_batch", prompts, options)

    def _wait(self, function: str, prompts: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        work = self._batch(function, prompts, options, CURRENT_CALL.get(NO_CALL))
        return asyncio.run_coroutine_threadsafe(work, self._driver.loop).result()

    # -- on the loop

    async def _batch(
        self, function: str, prompts: Any, options: dict[str, Any], caller: HostCallRecord
    ) -> list[Any]:
        started_s = time.monotonic()
        parsed: list[Any] = []
        errors: dict[int, WorkerError] = {}
        refused: list[WorkerError] = []
        form = ONE_TEXT
        refusal: WorkerError | WorkerBatchError | None = None
        try:
            options = {"max_tokens": self._budget.max_tokens, **self._defaults, **options}
            form = AnswerForm.of(options)
            parsed = await self._ask(function, prompts, options, caller, form)
            errors = {i: a for i, a in enumerate(parsed) if isinstance(a, WorkerError)}
            refused = [error for error in errors.values() if error.budget]
            self.tally.asked -= len(refused)
            if errors:
                good = [None if isinstance(answer, WorkerError) else answer for answer in parsed]
                kind = WorkerBudgetError if refused else WorkerBatchError
                refusal = kind(
                    form.gathered(good), form.by_prompt(errors), len(form.gathered(parsed))
                )
        except WorkerError as error:
            refusal = error
        self._refuse_if_ended()
        self._log.write(
            records.Batch,
            cell=caller.cell,
            call=caller.call,
            function=function,
            items=len(parsed),
            failed=len(errors),
            n=form.n,
            elapsed_s=time.monotonic() - started_s,
            key=caller.key if caller.function == function else "",
            error=refusal and printable(str(refusal)),
            refused=len(refused),
            refusal=printable(str(refused[0])) if refused else None,
        )
        if refusal is not None:
            raise refusal
        return form.gathered(parsed)

    async def _ask(
        self,
        function: str,
        prompts: Any,
        options: dict[str, Any],
        caller: HostCallRecord,
        form: AnswerForm,
    ) -> list[Any]:
        """Each answer, or a WorkerError in its place. Raises WorkerError: none can be asked."""
        self._refuse_if_ended()
        model = model_of(options, self._backend)
        # Numbered by us: one primitive may make several calls on behalf of one cell's call.
        name = f"{self._names}-{next(self._numbers)}"
        sampling = sampling_of({k: v for k, v in options.items() if k not in OWN_OPTIONS})
        questions = self._questions(name, prompts, sampling, options, form)
        asked = self._asked[name] = Asked(
            caller,
            function,
            len(questions),
            sampling=logged_sampling(sampling, form.record(self._record), model) | form.logged,
            model=model,
            form=form,
            loop=self._driver.loop,
        )
        self.tally.asked += len(questions)
        try:
            unanswered = await self._unanswered(questions, asked)
            self._refuse_if_ended()
            self._on_progress()
            submission = Submission(
                unanswered,
                self._deliver,
                self._log.run,
                model,
                # Several answers to one prompt are a batch: it is read by one worker.
                interactive=function == "worker" and asked.form.count == 1,
                logprobs=form.logprobs,
                lost_try=self._budget.lost(sampling.max_tokens),
            )
            await self._submit(submission, asked)
            await asked.all_answered
        finally:
            self._asked.pop(name, None)
        return [parse_answer(answer, options) for answer in asked.answers]

    async def _submit(self, submission: Submission, asked: Asked) -> None:
        """Send what the budget covers, and the rest as the others leave something of it."""
        while self._stopped is None:
            requests = submission.requests
            covered = self._budget.admit(requests)
            if covered:
                self._backend.submit(dataclasses.replace(submission, requests=covered))
            if len(covered) == len(requests):
                return
            submission = dataclasses.replace(submission, requests=requests[len(covered) :])
            if not self._budget.open_calls:
                break
            self._settled.clear()
            await self._settled.wait()
            self._refuse_if_ended()
        for request in submission.requests:
            item = int(request.id.rpartition(".")[2])
            if asked.waits_for(item):
                asked.settle(item, self._stopped or self._budget.refusal)

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise WorkerError("the run has ended", kind="cancelled")

    def _questions(
        self,
        name: str,
        prompts: Any,
        sampling: wire.Sampling,
        options: Mapping[str, Any],
        form: AnswerForm,
    ) -> Questions:
        system = str(options.get("system") or "")
        conversations = conversations_of(prompts, system, form.count)
        chat = bool(options.get("chat", True))
        record = form.record(self._record)
        return Questions(name, conversations, sampling, record, form, system=system, chat=chat)

    async def _unanswered(self, questions: Questions, asked: Asked) -> Sequence[wire.Request]:
        """Give the items their answers from before; the requests of the others.

        It goes by frames, between which the loop has its turn: no other run, and no worker's
        heartbeat, waits for all of a large batch.
        """
        await self._earlier.read()
        if not self._earlier.may_answer(asked):
            return questions
        unanswered: list[wire.Request] = []
        for frame in frames(questions):
            await asyncio.sleep(0)
            await self._earlier.read()
            self._refuse_if_ended()
            left, lines = self._earlier.look_up(frame, asked)
            unanswered += left
            if lines:
                self._answer_again(asked, lines)
        return unanswered

    def _answer_again(self, asked: Asked, lines: list[records.Call]) -> None:
        """Answer with what was given before, after one write to the log."""
        try:
            places = self._log.calls(lines)
        except OSError as error:
            for line in lines:
                asked.settle(line.item, WorkerError(f"the log can't be written: {error}"))
            return
        for line, place in zip(lines, places, strict=True):
            if line.source == "reused":
                self.spares.enter(asked.cell, place)
            self._count(line)
            asked.settle(line.item, line.response or "")

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Log first, in one write; then count, and release the answers."""
        self._budget.settle(outcomes)
        wanted = []
        for outcome in outcomes:
            name, _, number = outcome.request.id.rpartition(".")
            asked, item = self._asked.get(name), int(number)
            if asked is not None and asked.waits_for(item):
                wanted.append((asked, item, outcome))
        self._settled.set()
        if not wanted:
            return
        try:
            calls = [self._lines.line(*each) for each in wanted]
            places = self._log.calls(calls)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody may wait for ever)
            for asked, item, _ in wanted:
                asked.settle(item, WorkerError(f"the log can't be written: {error}"))
            return
        self._earlier.keep(wanted, calls)
        for (asked, item, outcome), call, place in zip(wanted, calls, places, strict=True):
            self._count(call)
            # What is read back from a redacted log is not what the call had got.
            if self._keeps_spares and call.response is not None and not asked.form.logprobs:
                self.spares.enter(call.cell, place)
            asked.settle(item, _answer(outcome, asked.form))
        self._on_progress()

    def _count(self, call: records.Call) -> None:
        self.tally.add(call)
        if call.source == "reused" or call.response is None or not call.spans:
            return
        self.spans.extend(call.spans)
        self.readings.append(Reading(call.response, passage_of(call.spans)))

    def take_up(self, run: Run) -> None:
        """Go on with the calls of a run that was cut off."""
        # Calls in flight at the cut are not in the log; one may still be answered by then.
        self._names = f"{run.id}.{times_resumed(run) + 1}"
        fill_spares(self.spares.recorded, run)
        for line in run.calls:
            self._budget.take_up(line)
            self.tally.asked += 1
            self._count(line)

    def count_replayed(self, lines: Sequence[records.Call]) -> None:
        """Count calls that got what those of a recorded run had got."""
        self.tally.asked += len(lines)
        for line in lines:
            self._count(line)
        self._on_progress()

    def stop(self, why: BudgetError) -> None:
        """Give up every open call, and refuse more; the run goes on without."""
        self._stopped = WorkerError(f"given up: {why}", budget=why.budget)
        self._backend.cancel(self._log.run)
        self._budget.forfeit()
        self._settled.set()
        for asked in list(self._asked.values()):
            asked.settle_all(self._stopped)

    def cancel(self) -> None:
        """Forget every open call, and refuse more: the run has ended."""
        self._ended = True
        self._budget.forfeit()
        self._settled.set()
        self._backend.cancel(self._log.run)
        for asked in list(self._asked.values()):
            asked.settle_all(WorkerError("the run ended", kind="cancelled"))


def _answer(outcome: Outcome, form: AnswerForm) -> Any:
    """What a cell gets for it."""
    result = outcome.result
    if isinstance(result, wire.Failure):
        return WorkerError(result.detail, kind=outcome.lost or result.kind)
    try:
        return form.answer(result)
    except WorkerError as error:
        return error
