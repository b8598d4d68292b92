"""Whole runs in the Agent Trajectory Interchange Format, ATIF.

A reply of the supervisor is a step of the agent. The code in it is one call of the tool ``repl``,
which takes all blocks of the reply, because what came of them went back in one message: that is the
observation, to the letter.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec

from distill.exports import atif
from distill.exports.conversations import incomplete
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_RUNS
from distill.exports.material import Material
from distill.exports.row import Dropped, Format, Made
from distill.traces import Run, records

NO_CONVERSATION = "it had not begun its conversation"
CUT_OFF = "The run was cut off: its last step has no outcome."
SHORTENED = "The conversation was shortened {count} time(s): requests left out earlier steps."


class Atif(Format):
    """One document a run; sub-runs are documents of their own."""

    name = "atif"
    about = "whole runs as trajectories of an agent, in the Agent Trajectory Interchange Format 1.7"
    read_by = "Harbor, and other readers of ATIF: each line is a document"
    row = atif.AtifRow
    asks = OF_RUNS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each run that has begun its conversation."""
        children: dict[str, list[GradedRun]] = {}
        for graded in material.runs:
            if (parent := graded.start.parent) is not None:
                children.setdefault(parent.run, []).append(graded)
        for graded in material.runs:
            if not graded.run.messages:
                yield Dropped(NO_CONVERSATION)
                continue
            if (why := incomplete(graded.run)) is not None:
                yield Dropped(why)
                continue
            row = trajectory(graded, children.get(graded.run.id, []))
            yield Made(row, graded, (row.extra.query, *(step.message for step in row.steps)))


def trajectory(graded: GradedRun, children: list[GradedRun]) -> atif.AtifRow:
    """The document of a run, whose sub-runs are ``children``."""
    run, start = graded.run, graded.start
    steps = _Steps(run, children).all()
    return atif.AtifRow(
        schema_version=atif.VERSION,
        session_id=graded.root.run.id,
        trajectory_id=run.id,
        agent=atif.Agent(
            name="distill",
            version=start.versions.get("distill", "unknown"),
            model_name=start.supervisor,
            tool_definitions=[atif.ToolDefinition()],
            extra=atif.AgentExtra(worker=start.worker, dialect=_text(start.options.get("dialect"))),
        ),
        steps=steps,
        notes=_notes(run),
        final_metrics=_final_metrics(graded, len(steps)),
        extra=atif.TrajectoryExtra(
            query=start.query,
            answer=msgspec.json.encode(run.answer).decode(),
            status=run.end.status if run.end is not None else None,
            task=graded.task,
            document=graded.document,
            document_chars=start.context.chars,
            score=graded.score,
            scores=[atif.Scored(scorer=name, value=each) for name, each in graded.scores.items()],
        ),
    )


class _Steps:
    """Makes the steps of a run, in the order of its messages."""

    def __init__(self, run: Run, children: list[GradedRun]) -> None:
        self._run = run
        self._turns = {turn.reply_index: turn for turn in run.turns}
        self._cells: dict[int, list[records.Cell]] = {}
        for cell in run.cells:
            self._cells.setdefault(cell.turn, []).append(cell)
        self._batches: dict[int, list[records.Batch]] = {}
        for batch in run.batches:
            self._batches.setdefault(batch.cell, []).append(batch)
        self._children: dict[int, list[atif.SubRun]] = {}
        for child in children:
            assert child.start.parent is not None
            named = atif.SubRun(trajectory_id=child.run.id, trajectory_path=f"#{child.run.id}")
            self._children.setdefault(child.start.parent.cell, []).append(named)
        self._compactions: dict[int, list[records.Compaction]] = {}
        for made in run.compactions:
            self._compactions.setdefault(made.turn, []).append(made)
        self._steps: list[atif.Step] = []

    def all(self) -> list[atif.Step]:
        """Every message is in one of them: by itself, or as what came of the code before it."""
        messages = self._run.messages
        position = 0
        while position < len(messages):
            message = messages[position]
            turn = self._turns.get(message.index)
            position += 1
            if message.role != "assistant" or turn is None:
                self._add(message)
                continue
            outcome = None
            after = messages[position] if position < len(messages) else None
            if turn.turn in self._cells and after is not None and after.role == "user":
                outcome = after.content
                position += 1
            self._reply(turn, message, outcome)
        return self._steps

    def _add(self, message: records.Message) -> None:
        """A message that no model wrote in this run: of an assistant, an example that was given."""
        is_example = message.role == "assistant"
        self._steps.append(
            atif.Step(
                step_id=len(self._steps) + 1,
                timestamp=_timestamp(message.t),
                source="agent" if message.role == "assistant" else message.role,
                message=message.content,
                is_copied_context=True if is_example else None,
                llm_call_count=0 if is_example else None,
                extra=atif.StepExtra(turn=message.turn),
            )
        )

    def _shortened(self, made: records.Compaction) -> None:
        self._steps.append(
            atif.Step(
                step_id=len(self._steps) + 1,
                timestamp=_timestamp(made.t),
                source="system",
                message="\n\n".join(each.get("content", "") for each in made.added),
                extra=atif.StepExtra(turn=made.turn, context_management=atif.ContextManagement()),
            )
        )

    def _reply(self, turn: records.Turn, message: records.Message, outcome: str | None) -> None:
        for made in self._compactions.get(turn.turn, []):
            self._shortened(made)
        cells = self._cells.get(turn.turn, [])
        named = f"turn-{turn.turn}"
        self._steps.append(
            atif.Step(
                step_id=len(self._steps) + 1,
                timestamp=_timestamp(message.t),
                source="agent",
                message=message.content,
                model_name=turn.model,
                reasoning_content=turn.reasoning or None,
                tool_calls=[self._call(named, cells)] if cells else None,
                observation=self._observation(named, cells, outcome),
                metrics=_metrics(turn),
                llm_call_count=1,
                extra=atif.StepExtra(
                    turn=turn.turn,
                    elapsed_s=turn.elapsed_s,
                    finish_reason=turn.finish_reason,
                    forced=turn.forced,
                ),
            )
        )

    def _call(self, named: str, cells: list[records.Cell]) -> atif.ToolCall:
        outcomes = []
        for cell in cells:
            batches = self._batches.get(cell.cell, [])
            outcomes.append(
                atif.CellOutcome(
                    cell=cell.cell,
                    status=cell.status,
                    elapsed_s=cell.elapsed_s,
                    worker_calls=sum(batch.items for batch in batches),
                    worker_calls_failed=sum(batch.failed for batch in batches),
                )
            )
        return atif.ToolCall(
            tool_call_id=named,
            function_name=atif.TOOL,
            arguments=atif.Arguments(cells=[cell.code for cell in cells]),
            extra=atif.ToolCallExtra(cells=outcomes),
        )

    def _observation(
        self, named: str, cells: list[records.Cell], outcome: str | None
    ) -> atif.Observation | None:
        below = [child for cell in cells for child in self._children.get(cell.cell, [])]
        if outcome is None and not below:
            return None
        result = atif.Result(
            source_call_id=named, content=outcome, subagent_trajectory_ref=below or None
        )
        return atif.Observation(results=[result])


def _metrics(turn: records.Turn) -> atif.Metrics:
    def listed(values: Any) -> list[Any] | None:
        return None if values is None else list(values)

    return atif.Metrics(
        prompt_tokens=turn.usage.input_tokens,
        completion_tokens=turn.usage.output_tokens,
        cached_tokens=turn.usage.cached_input_tokens,
        prompt_token_ids=listed(turn.prompt_token_ids),
        completion_token_ids=listed(turn.token_ids),
        logprobs=listed(turn.logprobs),
    )


def _final_metrics(graded: GradedRun, steps: int) -> atif.FinalMetrics:
    usages = [turn.usage for turn in graded.run.turns]
    end = graded.run.end
    worker = end.worker_usage if end is not None else records.TokenUsage(0, 0)
    return atif.FinalMetrics(
        total_prompt_tokens=sum(each.input_tokens for each in usages),
        total_completion_tokens=sum(each.output_tokens for each in usages),
        total_cached_tokens=sum(each.cached_input_tokens for each in usages),
        total_cost_usd=graded.dollars,
        total_steps=steps,
        extra=atif.FinalExtra(
            worker_calls=end.worker_calls if end is not None else 0,
            worker_prompt_tokens=worker.input_tokens,
            worker_completion_tokens=worker.output_tokens,
            elapsed_s=end.elapsed_s if end is not None else None,
        ),
    )


def _notes(run: Run) -> str | None:
    notes = []
    if run.end is None:
        notes.append(CUT_OFF)
    if run.compactions:
        notes.append(SHORTENED.format(count=len(run.compactions)))
    return " ".join(notes) or None


def _timestamp(seconds: float) -> str | None:
    """ISO 8601, UTC; None for a clock that says no date."""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
