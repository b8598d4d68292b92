"""How a real worker server is started on the engine that does no work, and what it has answered."""

import os
import sys
from pathlib import Path

import msgspec

from distill.supervisor.children import scrubbed_environment
from distill.supervisor.workers import WorkerSpec
from distill.traces import records

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = HERE / "model"


def worker_spec(
    endpoint: str,
    name: str = "w0",
    *,
    slots: int = 96,
    max_lora_rank: int | None = None,
    latency_s: float = 0.0,
    at_once: int = 0,
    words: int = 8,
    is_base: bool = False,
    chat_template: Path | None = None,
    through_core: bool = False,
    poison: str = "",
) -> WorkerSpec:
    """A worker server for a Fleet; what the settings do is said in ``vllm/__init__``."""
    core = min(os.sched_getaffinity(0))  # named, so that no GPU is looked for
    argv = (
        *(sys.executable, "-m", "distill.worker_server"),
        *("--connect", endpoint, "--worker", name, "--model", str(MODEL)),
        *("--cores", str(core), "--slots", str(slots)),
        *(("--max-lora-rank", str(max_lora_rank)) if max_lora_rank is not None else ()),
        *(("--chat-template", str(chat_template)) if chat_template is not None else ()),
    )
    paths = [str(HERE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        "PYTHONPATH": os.pathsep.join(paths),
        "STAND_IN_LATENCY_S": str(latency_s),
        "STAND_IN_AT_ONCE": str(at_once),
        "STAND_IN_WORDS": str(words),
        "STAND_IN_BASE": str(int(is_base)),
        "STAND_IN_CORE": str(int(through_core)),
        "STAND_IN_POISON": poison,
    }
    return WorkerSpec(name, argv, {**scrubbed_environment(), **env})


def calls_in(folder: Path) -> list[records.Call]:
    """The worker calls in a log folder, in the order in which they were written."""
    return [record for record in _logged_in(folder) if isinstance(record, records.Call)]


def events_in(folder: Path, event: str) -> list[records.Event]:
    """These events of its worker servers, in the order in which they were written."""
    found = [record for record in _logged_in(folder) if isinstance(record, records.Event)]
    return [record for record in found if record.event == event]


def _logged_in(folder: Path) -> list[records.WorkerRecord]:
    lines = (folder / records.WORKER_LOG).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=records.WorkerRecord) for line in lines]
