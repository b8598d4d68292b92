"""LoRA adapters on real worker servers with the engine that does no work, through the driver."""

import asyncio
import itertools
import os
import shutil
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError, ModelError, WorkerBatchError, WorkerError
from distill.supervisor.fleet import Fleet
from distill.supervisor.workers import WorkerSpec
from distill.traces import records
from distill.worker_server.adapter_files import AdapterFiles, files_hash
from distill.worker_server.adapters import HELD_LIMIT, Adapters, Held
from distill.worker_server.errors import AdapterRefused
from distill.worker_server.model import ModelFolder
from tests.adapter_folder import LAYER, write_adapter
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.engine_stand_in.vllm.tokens import WORDS, adapted, answer_ids, answer_to, decode, encode
from tests.worker_server.fleets import PROMPTS, Ask, Body, until, with_workers
from tests.worker_server.under_load import load_under_load

BARE = [answer_to(prompt) for prompt in PROMPTS]


def with_fleet(
    folder: Path, body: Body, ranks: Sequence[int | None] = (8,), **settings: Any
) -> list[records.Call]:
    """Run ``body`` with a ready fleet, a worker for each rank; the calls that were logged."""

    def specs_at(endpoint: str) -> list[WorkerSpec]:
        return [
            worker_spec(endpoint, f"w{number}", max_lora_rank=rank, **settings)
            for number, rank in enumerate(ranks)
        ]

    return with_workers(folder, body, specs_at)


async def load(fleet: Fleet, path: Path, name: str = "tuned") -> Any:
    return await fleet.adapters.load(name, str(path), str(MODEL))


def stamps(calls: list[records.Call]) -> list[tuple[str | None, int]]:
    return sorted({(call.model.adapter, call.model.weights_version) for call in calls}, key=str)


def test_each_load_is_a_version_and_later_calls_are_answered_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"

    async def body(ask: Ask, fleet: Fleet) -> None:
        assert await ask() == BARE
        first = await load(fleet, write_adapter(folder, 1.0))
        assert (first.version, first.workers, first.refused) == (1, ("w0", "w1"), {})
        one = await ask(model="tuned")
        assert await ask() == BARE
        shutil.rmtree(folder)  # nothing reads it again
        second = await load(fleet, write_adapter(folder, 2.0))
        assert second.version == 2
        two = await ask(model="tuned")
        assert BARE != one != two
        assert second.files_hash != first.files_hash

    calls = with_fleet(tmp_path, body, ranks=(8, 8))
    assert stamps(calls) == [("tuned", 1), ("tuned", 2), (None, 0)]
    hashes = {call.model.weights_version: call.model.adapter_hash for call in calls}
    assert [len(hashes[version]) for version in (0, 1, 2)] == [0, 64, 64]
    assert hashes[1] != hashes[2]
    assert {call.model.model for call in calls} == {str(MODEL)}


def test_what_is_in_flight_ends_on_what_it_began_with(tmp_path: Path) -> None:
    """At once in the engine: 4; the rest is sent and waits there, and in the driver."""

    async def body(ask: Ask, fleet: Fleet) -> None:
        await load(fleet, write_adapter(tmp_path / "1", 1.0))
        prompts = [str(number) for number in range(60)]
        slow = asyncio.ensure_future(ask(prompts, model="tuned"))
        await asyncio.sleep(0.3)
        for version in range(2, 40):  # more than the engine may hold at once
            await load(fleet, write_adapter(tmp_path / str(version), float(version)))
        await slow

    calls = with_fleet(tmp_path, body, latency_s=0.1, at_once=4, slots=20)
    versions = {call.model.weights_version for call in calls}
    assert 1 in versions
    assert max(versions) > 1
    for call in calls:
        weights = tmp_path / str(call.model.weights_version) / "adapter_model.safetensors"
        changed = zlib.crc32(weights.read_bytes())
        assert call.response == decode(adapted(answer_ids(encode(call.prompt), 8), changed))


def five_that_differ(folder: Path) -> list[Path]:
    """Adapters that the engine answers differently with, each from each and from none."""
    found: dict[int, Path] = {}
    numbers = itertools.count(1)
    while len(found) < 5:
        number = next(numbers)
        path = write_adapter(folder / str(number), float(number))
        found.setdefault(change_of(path) % len(WORDS), path)
        found.pop(0, None)
    return list(found.values())


def change_of(folder: Path) -> int:
    return zlib.crc32((folder / "adapter_model.safetensors").read_bytes())


def test_versions_are_loaded_into_two_workers_under_load(tmp_path: Path) -> None:
    """With real engines: tests/training/test_versions_under_load.py."""
    folders = five_that_differ(tmp_path)

    async def body(ask: Ask, fleet: Fleet) -> None:
        log = tmp_path / "log" / records.WORKER_LOG
        await load_under_load(ask, fleet, str(MODEL), log, folders)

    calls = with_fleet(tmp_path, body, ranks=(8, 8), latency_s=0.02, at_once=4, slots=8)
    changes = {0: 0} | {version: change_of(path) for version, path in enumerate(folders, 1)}
    hashes = {0: ""} | {version: files_hash(path) for version, path in enumerate(folders, 1)}
    for call in calls:
        ids, version = answer_ids(encode(call.prompt), 8), call.model.weights_version
        said = {each: decode(adapted(ids, change)) for each, change in changes.items()}
        assert [each for each in said if said[each] == call.response] == [version]
        assert call.model.adapter == ("tuned" if version else None)
        assert call.model.adapter_hash == hashes[version]
    by = {(call.producer.name, call.model.weights_version) for call in calls}
    assert by == set(itertools.product(("w0", "w1"), range(6)))


def test_a_restarted_worker_loads_the_current_version_before_it_serves_it(tmp_path: Path) -> None:
    async def body(ask: Ask, fleet: Fleet) -> None:
        await load(fleet, write_adapter(tmp_path / "1", 1.0))
        await load(fleet, write_adapter(tmp_path / "2", 2.0))
        before = await ask(model="tuned")
        (worker,) = fleet.workers()
        os.kill(worker.producer.pid, signal.SIGKILL)
        assert await ask(model="tuned") == before

    calls = with_fleet(tmp_path, body)
    assert stamps(calls) == [("tuned", 2)]
    assert len({call.producer.pid for call in calls}) == 2


@pytest.mark.slow  # for its time; what it is about is rare
def test_workers_that_end_while_a_version_is_loaded_come_later(tmp_path: Path) -> None:
    """One has loaded it and is killed, the other is stopped and has not: neither is forgotten."""

    async def body(ask: Ask, fleet: Fleet) -> None:
        one, two = fleet.workers()
        os.kill(two.producer.pid, signal.SIGSTOP)
        loading = asyncio.ensure_future(load(fleet, write_adapter(tmp_path / "adapter", 1.0)))
        await until(lambda: bool(one.adapter_cards))
        first_pid = one.producer.pid
        os.kill(first_pid, signal.SIGKILL)
        await until(lambda: one.is_ready and one.producer.pid != first_pid)
        os.kill(two.producer.pid, signal.SIGCONT)
        assert (await loading).workers == ("w1",)
        await until(lambda: one.serves("tuned"))
        os.kill(two.producer.pid, signal.SIGKILL)
        await ask(model="tuned")

    calls = with_fleet(tmp_path, body, ranks=(8, 8))
    assert stamps(calls) == [("tuned", 1)]
    assert "w0" in {call.producer.name for call in calls}


def test_files_that_changed_since_are_not_served_under_the_old_number(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"

    async def body(ask: Ask, fleet: Fleet) -> None:
        await load(fleet, write_adapter(folder, 1.0))
        write_adapter(folder, 2.0)
        (worker,) = fleet.workers()
        os.kill(worker.producer.pid, signal.SIGKILL)
        with pytest.raises(WorkerBatchError, match="serves tuned"):
            await ask(model="tuned")
        assert await ask() == BARE
        assert (await load(fleet, folder)).version == 2
        assert await ask(model="tuned") != BARE

    with_fleet(tmp_path, body)
    assert "keep each version in a folder of its own" in _log(tmp_path)


def test_a_version_that_nobody_can_load_leaves_the_one_before(tmp_path: Path) -> None:
    async def body(ask: Ask, fleet: Fleet) -> None:
        await load(fleet, write_adapter(tmp_path / "good", 1.0))
        good = await ask(model="tuned")
        broken = write_adapter(tmp_path / "broken", 1.0)
        with (broken / "adapter_model.safetensors").open("ab") as file:
            file.write(b"broken")
        with pytest.raises(ModelError, match=r"max_lora_rank 8.*higher --max-lora-rank"):
            await load(fleet, broken)
        with pytest.raises(ModelError, match=r"no adapter_config\.json"):
            await load(fleet, tmp_path / "nowhere")
        assert await ask(model="tuned") == good
        assert (await load(fleet, tmp_path / "good")).version == 4

    assert stamps(with_fleet(tmp_path, body)) == [("tuned", 1)]


def test_one_that_can_not_load_it_serves_the_rest(tmp_path: Path) -> None:
    async def body(ask: Ask, fleet: Fleet) -> None:
        one, two = fleet.workers()
        served = await load(fleet, write_adapter(tmp_path / "adapter", 1.0))
        assert list(served.refused) == ["w1"]
        assert "--max-lora-rank" in served.refused["w1"]
        assert (one.serves("tuned"), two.serves("tuned")) == (True, False)
        await ask([str(n) for n in range(50)], model="tuned")
        await ask([str(n) for n in range(50)])

    calls = with_fleet(tmp_path, body, ranks=(8, None))
    by = {(call.producer.name, call.model.adapter) for call in calls}
    assert by == {("w0", "tuned"), ("w0", None), ("w1", None)}


def test_names_that_can_not_be(tmp_path: Path) -> None:
    async def body(ask: Ask, fleet: Fleet) -> None:
        folder = write_adapter(tmp_path / "adapter", 1.0)
        with pytest.raises(InputError, match="a model's name"):
            await load(fleet, folder, str(MODEL))
        with pytest.raises(ModelError, match="no worker serves another"):
            await fleet.adapters.load("tuned", str(folder), "another")
        with pytest.raises(WorkerError, match="no worker serves"):
            await ask(model="tuned")

    with_fleet(tmp_path, body)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ({LAYER: (8, 3)}, "8 × 4, not 8 × 3"),
        ({LAYER: (4, 4)}, "8 × 4, not 4 × 4"),
        ({LAYER: (8, 4), "model.layers.1.mlp.up_proj": (8, 4)}, "has no model.layers.1.mlp"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    tmp_path: Path, layers: dict[str, tuple[int, int]], why: str
) -> None:
    """vLLM itself takes all three without a word."""
    base = ModelFolder("small", MODEL)
    assert AdapterFiles.read(str(write_adapter(tmp_path / "right", 1.0)), base).sha256
    with pytest.raises(AdapterRefused, match=why) as raised:
        AdapterFiles.read(str(write_adapter(tmp_path / "wrong", 1.0, layers=layers)), base)
    assert "made for the model of another" in str(raised.value)


def test_versions_are_loaded_and_dropped_in_the_order_in_which_that_was_asked_for(
    tmp_path: Path,
) -> None:
    """Else one that is dropped while it is on its way is held for ever."""
    path = str(write_adapter(tmp_path / "adapter", 1.0))
    engine: list[str] = []

    async def add(held: Held) -> None:
        await asyncio.sleep(0.01)
        engine.append(held.name)

    async def remove(held: Held) -> None:
        engine.remove(held.name)

    async def scenario() -> None:
        adapters = Adapters(ModelFolder("small", MODEL), add, remove)
        await asyncio.gather(
            *(adapters.load("tuned", 1, path), adapters.drop("tuned", 1)),
            *(adapters.load("tuned", 2, path), adapters.drop_all()),
            *(adapters.load("tuned", 3, path), adapters.load("other", 1, path)),
        )
        assert [name.split(".")[0] for name in engine] == ["tuned@3", "other@1"]
        more = [adapters.load("more", number, path) for number in range(HELD_LIMIT)]
        outcomes = await asyncio.gather(*more, return_exceptions=True)
        assert [type(each) for each in outcomes[-3:]] == [str, AdapterRefused, AdapterRefused]
        assert len(engine) == HELD_LIMIT

    asyncio.run(scenario())


def _log(folder: Path) -> str:
    return (folder / "log" / records.SUPERVISOR_LOG).read_text()
