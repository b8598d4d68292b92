"""What a real worker server has answered, exported: with its template, and by its token ids."""

import asyncio
import json
from pathlib import Path
from typing import Any

from distill import arun, export
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.fleet import Fleet
from tests.distill.scripted import SMALL, Supervisor, cell
from tests.engine_stand_in.spec import calls_in, worker_spec

TEXT = "The lamp was lit again, and they read by its light until the day broke. " * 20
CODE = """\
asked = [f'{context[i:i + 200]} What is told?' for i in (0, 7, 29)]
FINAL(worker_batch(asked, temperature=1.0) + [worker(asked[0], chat=False, temperature=1.0)])"""


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]


def test_what_a_worker_server_saw_and_wrote(tmp_path: Path) -> None:
    host, log = driver.shared(), tmp_path / "log"

    async def ask() -> None:
        fleet = Fleet(host, [worker_spec(host.endpoints["workers"])])
        try:
            backend = FleetBackend(fleet, await asyncio.wait_for(fleet.ready(), 60))
            boss = Supervisor(cell(CODE))
            await arun("What?", TEXT, boss, backend, log_dir=log, limits=SMALL)
        finally:
            await fleet.close()

    background.wait(ask())
    calls = calls_in(log)
    export(log, tmp_path / "text", format="worker-sft-text")
    rows = rows_in(tmp_path / "text")
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        (call.prompt, call.response) for call in calls
    ]
    chat = [row["prompt"] for row in rows if not row["prompt"].endswith("told?")]
    assert len(chat) == 3  # the template's own words stand around them
    assert all(TEXT[:100] in prompt or TEXT[29:129] in prompt for prompt in chat)
    export(log, tmp_path / "chat", format="worker-sft", where="call.has_ids")
    assert len(rows_in(tmp_path / "chat")) == 3
    asked = [f"{TEXT[start : start + 200]} What is told?" for start in (0, 7, 29)]
    export(log, tmp_path / "shots", format="few-shot")
    for row in rows_in(tmp_path / "shots"):
        assert row["chunk"] in TEXT
        assert row["instruction"].replace("{chunk}", row["chunk"]) in asked
    export(log, tmp_path / "ids", format="token-sft")
    ids = [[*(call.prompt_token_ids or ()), *(call.token_ids or ())] for call in calls]
    assert [row["input_ids"] for row in rows_in(tmp_path / "ids")] == ids
