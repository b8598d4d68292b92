"""The host's end of one sandbox: a keeper process, and one jail at a time behind it.

What the jail says arrives here already parsed by the keeper. It is still the word of a
hostile program: the answer, the record of calls and the state of the conversation are kept
on this side, and a lie harms the liar's own namespace only.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from distill.errors import SandboxError
from distill.protocol import sandbox_link as wire
from distill.protocol.errors import LocalProtocolError
from distill.protocol.jail_link import Limits, RunCell
from distill.supervisor import standby
from distill.supervisor.context import ContextFile
from distill.supervisor.driver import Driver
from distill.supervisor.finals import Finals
from distill.supervisor.history import (
    CellOutcome,
    FinishedCell,
    Replay,
    differing_names,
    finished,
    replayable,
)
from distill.supervisor.host_calls import HostCallRecord, HostFunctions
from distill.supervisor.keeper_process import KeeperProcess
from distill.supervisor.recorded import cell_numbers, fill, history_of
from distill.supervisor.recording import Recording
from distill.traces import Run, records
from distill.traces.records import Restored

START_DEADLINE_S = 60.0
CONTEXT_BYTES_PER_S = 10 << 20
"""Beside it: how slowly a context may come into the jail."""
AFTER_FINAL_S = 5.0
"""How long a cell may go on once it has called FINAL: the answer stands."""
KEEPER_STARTS_LIMIT = 3
KEEPER_SLACK_S = 15.0
"""Beyond a cell's own limits, before a silent keeper is taken for frozen."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a jail is filled with; the context stays the caller's to close.

    ``packages`` are names of installed distributions, ``tier`` is how it is to be confined.
    """

    namespace: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    context: ContextFile | None = None
    limits: Limits = field(default_factory=Limits)
    itemised: frozenset[str] = frozenset()
    """Functions that keep the answers of failed cells themselves, finer than by call."""
    packages: tuple[str, ...] = ()
    tier: wire.Wanted = "auto"


class Sandbox:
    """One keeper and its jail. All methods are called on the driver's loop.

    ``on_final(cell, value)`` is called once, before the jail hears that its FINAL was
    recorded; ``on_call(record)`` after every host call, and every FINAL that was refused;
    ``on_cell(cell, failed)`` when a cell has ended.
    """

    def __init__(
        self,
        driver: Driver,
        contents: Contents,
        *,
        on_final: Callable[[int, Any], None],
        on_call: Callable[[HostCallRecord], None],
        on_cell: Callable[[int, bool], None] = lambda _cell, _failed: None,
    ) -> None:
        self._driver = driver
        self._contents = contents
        self._on_cell = on_cell
        self._keeper: KeeperProcess | None = None
        self._changed = asyncio.Event()
        self._cell = 0
        self._outcome: CellOutcome | None = None
        self._final_s: float | None = None
        self._spent_s = 0.0
        self._replay: Replay | None = None
        self._untold: Restored | None = None
        self.functions = HostFunctions(driver, contents.functions, contents.itemised, on_call)
        self.recording: Recording | None = None
        """If set, a recorded run is done again."""
        self.finals = Finals(driver, self.functions, on_final, on_call)
        self.history: list[FinishedCell] = []
        """Cells whose effects stand, oldest first."""
        self._is_closed = False
        self._tasks: dict[asyncio.Task[None], str] = {}
        """Host calls that are being answered, and the jail that made each."""

    # -- what callers see

    @property
    def producer(self) -> records.Producer:
        """The keeper's process, as records name it."""
        return self._keeper.producer if self._keeper else records.Producer("sandbox", "", 0)

    @property
    def plan(self) -> wire.JailPlan | None:
        """How its jails are built, once the keeper has said."""
        return self._keeper.plan if self._keeper else None

    async def start(self) -> None:
        """Make a jail ready, with what stands of the finished cells.

        Raises SandboxError if none can be built or started.
        """
        self._untold = await self._be_ready() or self._untold

    def do_again(self, recording: Recording) -> None:
        """Answer calls as the recorded run's were, and lose the jail where it had."""
        self.recording = self.functions.recording = recording

    def take_up(self, run: Run) -> None:
        """Go on with the session of a run that was cut off: its names come back with the start."""
        self.history = history_of(run)
        self._cell = max(cell_numbers(run), default=0)
        self._spent_s = sum(cell.spent_s for cell in run.cells)
        fill(self.functions, run, self._contents.itemised)

    async def _be_ready(self) -> Restored | None:
        """Start a jail unless there is one; how the session came back in it."""
        if self._keeper is not None and self._keeper.state == "idle":
            return None
        async with self._driver.starts:
            await self._start_jail()
        return await self._restore()

    async def _start_jail(self) -> None:
        failure = None
        for _ in range(KEEPER_STARTS_LIMIT):
            if self._is_closed:
                raise SandboxError("the sandbox was closed")
            if self._driver.lost.is_set():
                raise SandboxError("the launcher died, and the sandbox with it")
            keeper = self._keeper
            if keeper is None or keeper.state == "gone":
                keeper = standby.of(self._driver).take(
                    self, self._contents.packages, self._contents.tier
                )
                self._keeper = keeper
            await self._open(keeper)
            if keeper.state == "idle":
                standby.of(self._driver).prepare_soon()
                return
            failure = keeper.failure
        raise SandboxError(failure or "the sandbox did not start")

    async def _open(self, keeper: KeeperProcess) -> None:
        """Try to make its jail ready: the keeper's state says whether it is."""
        context = self._contents.context
        context_bytes = context.size_bytes if context is not None else 0
        allowed_s = START_DEADLINE_S + context_bytes / CONTEXT_BYTES_PER_S
        # "running" here: the jail was told to go, and has not gone yet.
        await keeper.until(lambda: keeper.state not in ("new", "greeted", "running"), allowed_s)
        if keeper.refusal is not None:
            raise SandboxError(keeper.refusal)
        if keeper.state == "empty":
            keeper.open_jail(self._opening, context)
        # "empty" again: the jail was lost before it was ready.
        await keeper.until(lambda: keeper.state != "opening", allowed_s)

    def _opening(self, jail: str) -> wire.OpenJail:
        contents = self._contents
        context = contents.context
        return wire.OpenJail(
            jail,
            contents.limits,
            dict(contents.namespace),
            ("FINAL", *contents.functions),
            context.kind if context is not None else "none",
            context.size_bytes if context is not None else 0,
        )

    async def execute(self, code: str) -> CellOutcome:
        """Run one cell to its end, whatever end that is. Raises SandboxError: none can run."""
        restored = await self._be_ready() or self._untold
        self._untold = None
        self._cell += 1
        if self.recording is not None and (killed := self.recording.killed(self._cell)):
            outcome = await self._lose_again(killed)
        elif restored is not None and restored.why is not None:
            # The names that this cell counts on are gone: better told than run.
            lost = "not run: the jail had died before it"
            outcome = CellOutcome(self._cell, "", "", 0.0, 0.0, lost=lost, restored=restored)
        else:
            outcome = await self._run(self._cell, code, self._spent_s)
            self._spent_s += outcome.spent_s
        failed = outcome.error is not None or outcome.lost is not None
        self.functions.spares.settle(self._cell, failed=failed)
        self._on_cell(self._cell, failed)
        if outcome.lost is None:
            self.history.append(finished(outcome, code))
        elif outcome.restored is None and not self.finals.has_answer and not self._is_closed:
            # Where no jail can be had now, the next cell says why.
            with contextlib.suppress(SandboxError):
                outcome = replace(outcome, restored=await self._be_ready())
        return outcome

    async def _lose_again(self, killed: records.Cell) -> CellOutcome:
        """End this cell as that of a recorded run: it is not run, and what stood then stands."""
        restored = killed.restored
        if restored is not None and restored.why is not None:
            self.history = [cell for cell in self.history if cell.number <= restored.upto]
            await self._drop_jail()
            await self._be_ready()
        return CellOutcome(
            self._cell,
            killed.stdout,
            killed.stderr,
            killed.elapsed_s,
            killed.cpu_s,
            lost=killed.lost,
            dropped_bytes=killed.dropped_bytes,
            restored=restored,
        )

    # -- running finished cells again

    async def _restore(self) -> Restored:
        """Run the finished cells again in a fresh jail, as far as that is sound."""
        started_s = time.monotonic()
        before = self.history
        stands, why = replayable(before)
        died: set[int] = set()
        while (replay := await self._run_again(stands)).failed is not None:
            # A jail that dies once may have been killed from outside; twice, it is the cell.
            if not replay.died or replay.failed in died:
                why = replay.why
                stands = [cell for cell in stands if cell.number < replay.failed]
            died.add(replay.failed)
            await self._drop_jail()
            await self._start_jail()
        self.history = stands
        last = stands[-1].variables if stands else ()
        restored = Restored(
            upto=stands[-1].number if stands else 0,
            cells=len(stands),
            elapsed_s=time.monotonic() - started_s,
            why=why,
            lost_names=differing_names(before[-1].variables, last) if why is not None else (),
            changed_names=differing_names(last, replay.variables),
            differing=tuple(replay.differing),
        )
        if before:
            self._driver.event(
                "session_restored", self.producer, **msgspec.structs.asdict(restored)
            )
        return restored

    async def _run_again(self, cells: Sequence[FinishedCell]) -> Replay:
        """Run these cells with the answers they got; stops at the first that goes otherwise."""
        self.functions.ledger.rewind()
        replay = self._replay = Replay()
        spent_s = 0.0  # a budget of its own: the run's is not touched
        try:
            for cell in cells:
                outcome = await self._run(cell.number, cell.code, spent_s)
                spent_s += outcome.spent_s
                replay.compare(cell, outcome, missing=self.functions.ledger.missing(cell.number))
                if replay.failed is not None:
                    break
        finally:
            self._replay = None
        return replay

    async def _drop_jail(self) -> None:
        """Have the jail killed, and wait until it is."""
        keeper = self._keeper
        if keeper is not None and keeper.state in ("idle", "running"):
            keeper.close_jail()
            await keeper.until(lambda: keeper.state not in ("idle", "running"), START_DEADLINE_S)

    async def _run(self, number: int, code: str, spent_s: float) -> CellOutcome:
        """Run a cell in the jail that is ready, to its end."""
        assert self._keeper is not None
        self._outcome = self._final_s = None
        started_s = time.monotonic()
        try:
            self._keeper.send(RunCell(number, code, spent_s))
        except LocalProtocolError as error:
            raise SandboxError(f"the cell can't be sent: {error}") from error
        while self._outcome is None:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._patience_s()):
                    await self._changed.wait()
            except TimeoutError:
                self._give_up(started_s)
        await self.finals.settled(number)
        return self._outcome

    def _patience_s(self) -> float:
        """How long the keeper may say nothing; it enforces the limits, this only doubts it."""
        if self._final_s is not None:
            return max(0.0, self._final_s + AFTER_FINAL_S - time.monotonic())
        limits = self._contents.limits
        return limits.cell_s + limits.grace_s + KEEPER_SLACK_S

    def _give_up(self, started_s: float) -> None:
        """Nothing came in time: the cell goes on after FINAL, or the keeper is frozen."""
        assert self._keeper is not None
        if self._final_s is not None:
            self._lose("it went on after FINAL and was killed", started_s)
            self._keeper.close_jail()
        elif not self._open_calls():
            self._lose("its keeper is frozen and was killed", started_s)
            self._keeper.kill()

    async def close(self) -> None:
        """End the keeper and the jail."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._outcome is None:
            self._lose("the sandbox was closed", None)
        if self._keeper is not None:
            self._keeper.end()
            standby.of(self._driver).expect_runs_soon()

    # -- what the keeper tells

    def on_keeper_gone(self, why: str, before: str) -> None:
        """The keeper has ended; with it an open cell."""
        if before == "running" and self._outcome is None:
            self._lose(why, None)

    def on_jail_message(self, message: wire.FromKeeper, before: str) -> None:
        """What the jail said, as the keeper understood it."""
        match message:
            case wire.JailLost():
                self._on_jail_lost(message, before)
            case wire.CellDone():
                self._on_cell_done(message)
            case wire.HostCall():
                self._begin(message.jail, self._answer(message))
            case wire.FinalAnswer():
                self._begin(message.jail, self._answer_final(message))
        self._changed.set()

    def _on_jail_lost(self, lost: wire.JailLost, before: str) -> None:
        if before == "running":
            # Also where the cell crossed this message on its way: then it never ran.
            self._outcome = CellOutcome(
                self._cell,
                lost.stdout,
                lost.stderr,
                lost.elapsed_s,
                lost.cpu_s,
                lost=lost.detail,
                spent_s=lost.spent_s,
            )

    def _on_cell_done(self, done: wire.CellDone) -> None:
        if self._outcome is None:
            self._outcome = CellOutcome(
                done.cell,
                done.stdout,
                done.stderr,
                done.elapsed_s,
                done.cpu_s,
                error=done.error,
                variables=done.variables,
                dropped_bytes=done.dropped_bytes,
                interrupted=done.interrupted,
                live_threads=done.live_threads,
                spent_s=done.spent_s,
                open_calls=self._open_calls(),
            )

    def _lose(self, why: str, started_s: float | None) -> None:
        elapsed_s = 0.0 if started_s is None else time.monotonic() - started_s
        self._outcome = CellOutcome(self._cell, "", "", elapsed_s, 0.0, lost=why)
        self._changed.set()

    # -- host calls

    def _begin(self, jail: str, answering: Coroutine[Any, Any, None]) -> None:
        task = self._driver.loop.create_task(answering)
        self._tasks[task] = jail
        task.add_done_callback(self._tasks.pop)

    def _open_calls(self) -> int:
        """How many calls of this jail wait; those of one that is gone are nobody's any more."""
        jail = self._keeper.jail if self._keeper is not None else ""
        return sum(each == jail for each in self._tasks.values())

    async def _answer(self, call: wire.HostCall) -> None:
        if self._replay is None:
            self._reply(await self.functions.answer(call))
        elif (reply := self.functions.answer_again(call)) is not None:
            self._reply(reply)
        elif self._keeper is not None:
            self._replay.unknown_call = call.function
            self._keeper.close_jail()

    async def _answer_final(self, final: wire.FinalAnswer) -> None:
        if self._replay is not None:
            error = self.finals.settle_again(final)
        else:
            error = await self.finals.settle(final)
            if error is None:
                self._final_s = self._final_s or time.monotonic()
                self._changed.set()  # from now on it has only seconds
        self._reply(wire.CallReply(final.jail, final.call, error=error))

    def _reply(self, reply: wire.CallReply) -> None:
        keeper = self._keeper
        if keeper is not None and reply.jail == keeper.jail and keeper.allows(wire.CallReply):
            keeper.send(reply)
