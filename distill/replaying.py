"""A recorded run while it is done again: its cells compared, its calls logged, how it went."""

from dataclasses import asdict, dataclass

from distill.repl import REPL, ExecResult
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.recording import Answers, Recording
from distill.supervisor.replayed_calls import ReplayedCalls
from distill.supervisor.run_log import RunLog
from distill.traces import Run, records


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a recorded run went when it was done again.

    ``run`` is the recorded one's id, ``answers`` where worker calls got theirs; ``calls`` of them
    got theirs from its log. With ``answers`` "log", ``differing`` of ``cells`` came out otherwise
    than they had: in names, types, sizes, short reprs, output, exception or calls. ``is_whole``:
    it came to its end before the recorded replies did.
    """

    run: str
    answers: Answers
    calls: int
    cells: int
    differing: tuple[int, ...]
    is_whole: bool


class Replaying:
    """Does ``run`` again with this REPL: what there is to do beside the turns. On the loop."""

    def __init__(
        self, run: Run, answers: Answers, repl: REPL, log: RunLog, calls: WorkerCalls
    ) -> None:
        self._repl, self._log, self._calls = repl, log, calls
        self._recording = repl.recording = Recording(run, answers, repl.itemised)
        self._logged = ReplayedCalls(run, log, calls)
        self._recording.on_killed = self._logged.write_killed
        self.is_whole = True

    def execute(self, code: str) -> ExecResult:
        """Run one cell to its end, and hold it against the recorded one."""
        result = self._repl.execute(code)
        self._recording.compare(code, result)
        return result

    def on_call(self, call: HostCallRecord) -> None:
        """A host call has ended: if it got what was recorded, the log says all of that."""
        if call.replays is not None:
            self._logged.write(call.replays, (call.cell, call.call))

    def result(self) -> Replayed:
        """How it went; the log says so too."""
        recording = self._recording
        replayed = Replayed(
            recording.run.id,
            recording.answers,
            self._calls.tally.replayed,
            recording.compared,
            tuple(recording.differing) if recording.answers == "log" else (),
            self.is_whole,
        )
        self._log.write(records.Event, event="run_replayed", detail=asdict(replayed))
        return replayed
