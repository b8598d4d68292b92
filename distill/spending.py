"""What a run costs and may cost: its models' prices, the default cap, what was spent before."""

import asyncio
import contextlib
import dataclasses
import functools
import glob
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from distill.accounts import Account
from distill.budget import Budget, Use, amount
from distill.errors import BudgetError, InputError
from distill.models import ModelHandler, Usage, model_name
from distill.prices import PriceTable
from distill.supervisor.backends import Backend, RecordedBackend
from distill.supervisor.call_budget import CallBudget
from distill.supervisor.recipe import RecipeHandler
from distill.supervisor.tariff import Tariff
from distill.supervisor.turn_budget import TurnBudget
from distill.supervisors import RecordedSupervisor
from distill.token_estimate import prompt_tokens
from distill.traces import Run
from distill.user_folders import config_folder

LOG = logging.getLogger("distill")
LOOK_S = 0.5
DEFAULT_DOLLARS = 5.0
"""What a run may cost where somebody sends a bill for it and nobody says how much."""


def settled(
    budget: Budget, table: PriceTable, backend: Backend, *supervisors: ModelHandler | None
) -> tuple[Budget, PriceTable]:
    """The budget of a run with its default cap, and the prices of these models and of devices.

    Raises InputError where dollars are limited and a price is not known.
    """
    asked = [_asked(each) for each in supervisors if each is not None]
    return settled_for([*asked, (backend.name, backend.endpoint)], budget, table)


def settled_for(
    asked: Iterable[tuple[str, str | None]], budget: Budget, table: PriceTable, what: str = "run"
) -> tuple[Budget, PriceTable]:
    """The same for what asks these models, each at an endpoint; ``what`` it is, in a word."""
    rows, unknown = [], []
    for model, endpoint in dict.fromkeys(asked):
        price = table.price(model, endpoint)
        if price is None:
            unknown.append((model, endpoint))
            continue
        exactly = {"models": (glob.escape(model),), "endpoint": glob.escape(endpoint or "") or "*"}
        rows.append(msgspec.structs.replace(price, **exactly))
    if unknown and budget.dollars is not None:
        raise InputError(f"the dollars can't be limited: {_how_to_add(*unknown[0])}")
    for model, endpoint in unknown:
        if endpoint is not None:
            _tell_once(f"what this {what} costs is not known: {_how_to_add(model, endpoint)}")
    costs = any(row.most_input or row.output for row in rows) or bool(table.devices)
    if costs and not unknown and budget.dollars is None:
        _tell_once(f"a {what} may cost up to ${DEFAULT_DOLLARS:.2f} (--max-dollars sets it)")
        budget = dataclasses.replace(budget, dollars=DEFAULT_DOLLARS)
    return budget, PriceTable(models=tuple(rows), devices=table.devices)


def check_covers_a_turn(
    supervisor: ModelHandler | str,
    budget: Budget,
    table: PriceTable,
    opening: Iterable[Mapping[str, str]],
) -> None:
    """Raise InputError where the budget does not cover one turn that begins with these messages.

    A name is that of a model of the engine's own.
    """
    tariff = _tariff_of(supervisor, table)
    if tariff.price is None and budget.dollars is not None:
        raise InputError(f"the dollars can't be limited: {_how_to_add(*_asked(supervisor))}")
    account = Account(budget)
    TurnBudget(account, tariff, CallBudget(account, tariff)).open([*opening])


@functools.cache
def _tell_once(text: str) -> None:
    """Of a thousand runs one says so."""
    LOG.warning("distill: %s", text)


def _how_to_add(model: str, endpoint: str | None) -> str:
    where = f" at {endpoint}" if endpoint else ""
    row = f'models = ["{model}"]' + (f'\n  endpoint = "{endpoint}"' if endpoint else "")
    return (
        f"there is no price of {model}{where}. Add it, in dollars per million tokens, to "
        f"{config_folder() / 'prices.toml'} or a file for --prices:\n"
        f"  [[models]]\n  {row}\n  input = …\n  output = …"
    )


class Spending:
    """The accounts of one run: ``turns`` and ``calls`` say what may be sent, and hear what it took.

    ``account`` is what they and the run's sub-runs use; it draws on ``parent``, if there is one.
    ``below`` is the supervisor of sub-runs, None where there are none.
    """

    def __init__(
        self,
        supervisor: ModelHandler,
        backend: Backend,
        *,
        budget: Budget,
        prices: PriceTable,
        shown_chars: int,
        parent: Account | None = None,
        recorded: Run | None = None,
        below: ModelHandler | None = None,
    ) -> None:
        spent_s = seconds_before(recorded) if recorded is not None else 0.0
        if isinstance(backend, RecordedBackend):
            budget = Budget()  # a replay takes nothing but time, and not the recorded run's
        self.account = Account(budget, parent, spent_s=spent_s)
        self._tariff = _tariff_of(supervisor, prices)
        self._tariff_below = self._tariff if below is None else _tariff_of(below, prices)
        self._call_tariff = Tariff(prices.price(backend.name, backend.endpoint), prices)
        window = backend.window_tokens
        self.calls = CallBudget(self.account, self._call_tariff, window, parent)
        self.turns = TurnBudget(
            self.account, self._tariff, self.calls, shown_chars, supervisor.window_tokens
        )
        if isinstance(supervisor, RecordedSupervisor) and supervisor.run.end is not None:
            self.turns.end_as(supervisor.run.end)
        if None in (self._tariff.price, self._call_tariff.price):
            self.account.say_unpriced()
        if recorded is not None:
            self._charge_before(recorded, parent)

    def _charge_before(self, recorded: Run, parent: Account | None) -> None:
        """What an earlier process of this run has used, but its calls, which are taken up apart.

        The parent's account has all of it, as of any run below it.
        """
        self.turns.account.charge(turns_before(recorded, self._tariff), parent)
        below = list(recorded.sub_runs)
        for run in below:
            below += run.sub_runs
            self.account.charge(turns_before(run, self._tariff_below), parent)
            for line in run.calls:
                self.account.charge(self.calls.used_by(line), parent)

    @property
    def supervisor_dollars(self) -> float | None:
        """What the run's own turns have cost; None: nobody knows."""
        return None if self._tariff.price is None else self.turns.account.used.dollars

    @property
    def worker_dollars(self) -> float | None:
        """What its own worker calls have cost; None: nobody knows."""
        return None if self._call_tariff.price is None else self.calls.account.used.dollars

    @property
    def dollars(self) -> float | None:
        """What all has cost, sub-runs included; None: nobody knows."""
        return self.account.used.dollars if self.account.is_priced else None

    @property
    def gpu_s(self) -> float:
        """Of worker servers' devices, for its own turns and calls."""
        return self.turns.account.used.gpu_s + self.calls.account.used.gpu_s

    def close(self) -> None:
        """The run has ended: what was put aside for it is the others' of its tree."""
        self.calls.forfeit()
        self.turns.close()

    @contextlib.contextmanager
    def clock(self, stop: Callable[[BudgetError], None]) -> Iterator[None]:
        """Meanwhile: when there is only time for a last turn, calls and sub-runs are stopped."""

        async def watch() -> None:
            while left_s := self.turns.work_left_s():  # noqa: ASYNC110  (time passes by itself)
                # It changes with every reply.
                await asyncio.sleep(min(left_s, LOOK_S))
            limit = amount("wall_s", self.account.limit("wall_s") or 0.0)
            stop(BudgetError(f"the budget of {limit} is used up", budget="wall_s"))

        if self.turns.work_left_s() is None:
            yield
            return
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


def _tariff_of(supervisor: ModelHandler | str, prices: PriceTable) -> Tariff:
    counts = not isinstance(supervisor, RecipeHandler | RecordedSupervisor)
    return Tariff(prices.price(*_asked(supervisor)), prices, counts)


def _asked(supervisor: ModelHandler | str) -> tuple[str, str | None]:
    """Its name, and where it is asked."""
    if isinstance(supervisor, str):
        return supervisor, ""
    return model_name(supervisor), supervisor.endpoint


def turns_before(run: Run, tariff: Tariff) -> Use:
    """What the turns of an earlier process of the same run have used.

    Where nobody said what one took, it is what it looks like, as it was when it came.
    """
    total = Use()
    replies = {message.index: message.content for message in run.messages}
    for turn in run.turns:
        usage = Usage(*msgspec.structs.astuple(turn.usage))
        if tariff.counts and not (usage.input_tokens or usage.output_tokens):
            sent = prompt_tokens(message["content"] for message in run.conversation(turn.turn))
            usage = Usage(sent, prompt_tokens([replies[turn.reply_index]]))
        total += tariff.used(usage, turn.gpu_s, turn.device) + Use(turns=int(not turn.forced))
    return total


def seconds_before(run: Run) -> float:
    """For how long earlier processes of the same run were at it, by the times in its log."""
    assert run.start is not None
    resumed = sorted(event.t for event in run.events if event.event == "run_resumed")
    kinds = (run.messages, run.turns, run.cells, run.batches, run.primitives, run.calls, run.events)
    times = sorted([run.start.t, *(record.t for records in kinds for record in records)])
    gaps = 0.0
    for again in resumed:  # nobody was at it before that
        before = [t for t in times if t < again]
        gaps += again - before[-1] if before else 0.0
    return max(0.0, times[-1] - times[0] - gaps)
