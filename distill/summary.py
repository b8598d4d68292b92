"""A run's outcome on one screen: the evidence, what it cost, where the trace is."""

import json
from collections.abc import Sequence
from typing import Any

from distill.budget import counted, percent
from distill.replaying import Replayed
from distill.run_result import RunResult
from distill.supervisor.evidence import Evidence, Quotation
from distill.traces.coverage import MIN_MATCH_CHARS

THIN_SHARE = 0.05
QUOTATIONS_SHOWN = 10
SMALL_MODEL = "SmolLM2-135M"
NOT_PASSED = "Caution     this is no answer that passes: "
FORCED = """\
Caution     the supervisor never called FINAL: this answer is its last reply, unchecked"""
ENDED_BY = {
    "worker_calls": "the budget of worker calls was",
    "tokens": "the budget of tokens was",
    "dollars": "the budget of dollars was",
    "gpu_s": "the budget of GPU seconds was",
    "wall_s": "the time was",
}
BETTER_WORKER = """\
A very small model answered (135 million parameters): check the quotations. A better one:
  --worker MODEL       a Hugging Face id or folder that your machine can hold
  --worker-url URL     any OpenAI-compatible server, with --worker MODEL naming its model
  --supervisor MODEL   an API model that writes code for your question (OPENAI_API_KEY)"""


def answer_text(answer: Any) -> str:
    """The answer as it goes to stdout: text as it stands, anything else as JSON."""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def summary(result: RunResult, supervisor: str, worker: str) -> str:
    """The lines that follow an answer, for people."""
    lines = [*_evidence(result.evidence), *_cost(result, supervisor, worker)]
    more = len(result.quotations) - QUOTATIONS_SHOWN
    if more > 0:
        lines.insert(0, f"{'':<12}… and {more:,} more")
    lines[:0] = _named("Quoted", result.quotations[:QUOTATIONS_SHOWN])
    if result.answer_problem is not None:
        lines.insert(0, NOT_PASSED + result.answer_problem)
    elif result.status == "forced":
        lines.insert(0, FORCED)
    if result.ended_by not in (None, "turns") and result.answer is not None:
        what = ENDED_BY[result.ended_by]
        lines.insert(0, f"Caution     {what} used up: the answer is the best there was by then")
    lines.append(f"Trace       {result.log_dir}  (run {result.run_id})")
    if SMALL_MODEL.lower() in worker.lower():
        lines += ["", *BETTER_WORKER.splitlines()]
    return "\n".join(lines)


def _evidence(evidence: Evidence) -> list[str]:
    lines = _named("Evidence", evidence.quotations)
    if evidence.answers and not evidence.quotations:
        lines.append("Evidence    none: no worker read a passage that holds this answer")
    if evidence.answers:
        others = ", ".join(f"{answer} ({count})" for answer, count in evidence.others)
        lines.append(
            f"Votes       {evidence.agreeing} of {evidence.answers} workers said this"
            + (f"; others: {others}" if others else "")
        )
    if 0 < evidence.agreeing < evidence.answers * THIN_SHARE:
        lines.append("Caution     few workers agree (their votes are weighed): check the evidence")
    if evidence.total_chars and evidence.passages:
        share = percent(evidence.read_chars / evidence.total_chars)
        lines.append(
            f"Read        {share} of the text: {evidence.read_chars:,} of "
            f"{evidence.total_chars:,} characters, {counted(evidence.passages, 'passage')} (exact "
            f"matches of {MIN_MATCH_CHARS} characters and more)"
        )
    return lines


def _named(name: str, quotations: Sequence[Quotation]) -> list[str]:
    return [
        f"{name if number == 0 else '':<12}{_quote(quotation)}"
        for number, quotation in enumerate(quotations)
    ]


def _quote(quotation: Quotation) -> str:
    place = f"{quotation.start:,}-{quotation.end:,}"
    if (where := quotation.file or quotation.part) is not None:
        place = f"{where}:{place}"
    text = " ".join(quotation.text.split())
    return f"“{text}”  [{place}]"


def _cost(result: RunResult, supervisor: str, worker: str) -> list[str]:
    def tokens(usage: Any) -> str:
        return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"

    failed = f", {result.worker_failures} failed" if result.worker_failures else ""
    turns = counted(result.iterations, "turn")
    if result.sub_runs:
        turns += f" and {counted(result.sub_runs, 'sub-run')}"
    calls = f"{counted(result.worker_calls, 'call')}{failed}"
    if (before := result.worker_calls_before) is not None:
        calls += f" ({before:,} were in the log, {result.worker_calls - before:,} sent since)"
    if result.worker_cached:
        calls += f", {result.worker_cached:,} more from the cache"
    gpu = f", {result.gpu_s:,.1f} s of the workers' devices" if result.gpu_s else ""
    return [
        f"Supervisor  {supervisor}: {turns}, {tokens(result.supervisor_usage)}",
        f"Workers     {worker}: {calls}, {tokens(result.worker_usage)}",
        *_replay(result.replay),
        *_dollars(result),
        f"Time        {result.elapsed:.1f} s{gpu}",
    ]


def _dollars(result: RunResult) -> list[str]:
    if result.dollars is None:
        return ["Cost        not known: a model has no price (--prices)"]
    if result.dollars_limit is None and not result.dollars:
        return []
    limit = f" of at most ${result.dollars_limit:,.2f}" if result.dollars_limit is not None else ""
    return [f"Cost        ${result.dollars:,.4f}{limit}"]


def _replay(replay: Replayed | None) -> list[str]:
    """How a recorded run went again."""
    if replay is None:
        return []
    told = f"of run {replay.run}: {counted(replay.calls, 'call')} got what they had got"
    if replay.answers == "worker":
        told = f"of run {replay.run}: its supervisor's replies, with this worker"
    elif replay.differing:
        told += f"; other than recorded came out: cell {', '.join(map(str, replay.differing))}"
    else:
        told += f", all {replay.cells} cells came out as recorded"
    ends = [] if replay.is_whole else ["Caution     the recorded replies ended without FINAL"]
    return [f"Replay      {told}", *ends]
