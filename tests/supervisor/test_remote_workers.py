"""Worker servers that join over tcp with a key, by the real command, and what goes wrong."""

import asyncio
import queue
import secrets
import shutil
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from distill.errors import InputError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import WORKER_TO_DRIVER
from distill.protocol.keys import read_worker_key
from distill.protocol.sockets import ClientKeys, Inbound, public_key
from distill.protocol.worker_link import WorkerHello, WorkerRefused
from distill.protocol.zap import fingerprint
from distill.supervisor import driver, keyring
from tests.engine_stand_in.spec import MODEL
from tests.protocol.socket_thread import SocketThread
from tests.supervisor.far import PROMPTS, RIGHT, Ask, Far, with_engine


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return keyring.folder()


def test_one_joins_and_answers_and_ends_with_its_engine(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        process = far.join("far")
        assert await ask(PROMPTS) == RIGHT
        await far.fleet.close()
        status, told = await far.ended(process, "far")
        assert status == 0, told

    calls = with_engine(tmp_path, body, latency_s=0.0)
    assert {call.producer.name for call in calls} == {"far"}
    assert f'"host":"{socket.gethostname()}"' in (tmp_path / "log" / "worker.jsonl").read_text()


@pytest.mark.slow
def test_the_key_may_be_in_the_environment(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        text = keyring.worker_key_path().read_text()
        elsewhere = str(tmp_path / "nowhere")
        process = far.join("far", XDG_CONFIG_HOME=elsewhere, DISTILL_FLEET_KEY=text)
        assert await ask(PROMPTS[:5]) == RIGHT[:5]
        assert text.strip() not in " ".join(process.args)  # type: ignore[arg-type]

    with_engine(tmp_path, body, latency_s=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_lost_loses_nothing(tmp_path: Path, way: int) -> None:
    async def body(far: Far, ask: Ask) -> None:
        lost = far.join("lost")
        far.join("other")
        await far.until_ready("lost", "other")
        answers = asyncio.ensure_future(ask(PROMPTS))
        await asyncio.sleep(0.3)
        lost.send_signal(way)
        assert await answers == RIGHT
        assert far.ready() == {"other"}
        if way == signal.SIGSTOP:
            lost.send_signal(signal.SIGCONT)
            await far.until_ready("lost", "other")
            assert await ask(PROMPTS[:20]) == RIGHT[:20]

    calls = with_engine(tmp_path, body)
    assert len([call for call in calls if call.attempt == 2]) > 0


def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        host = driver.Driver()
        try:
            with pytest.raises(InputError, match=f"{port}: Address already in use"):
                host.listen_to_remote_workers(f"tcp://127.0.0.1:{port}")
            host.listen_to_remote_workers("tcp://127.0.0.1:0")
        finally:
            host.close()


def test_who_has_no_key_that_is_good_here_is_told_and_told_of(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        mine = read_worker_key(keyring.worker_key_path())
        stranger = msgspec.structs.replace(mine, worker_secret=secrets.token_bytes(32).hex())
        public = public_key(bytes.fromhex(stranger.worker_secret))
        status, told = await far.ended(far.join("s", DISTILL_FLEET_KEY=stranger.text), "s")
        assert status == 3
        assert "the engine does not let this key in. A worker needs the engine's own key" in told
        assert f"127.0.0.1 has a key that is not allowed: {fingerprint(public)}" in far.logged()
        another = msgspec.structs.replace(mine, engine_public=public.hex())
        status, told = await far.ended(far.join("a", DISTILL_FLEET_KEY=another.text), "a")
        assert status == 3
        assert "this key is for another engine. A worker needs the engine's own key" in told
        # It knocked five times; of one that was gone too soon nobody knows the address.
        assert far.logged().count("does not know this engine's key: its key file is") in (1, 2)

    with_engine(tmp_path, body)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--worker", "/nowhere/model"], "/nowhere/model: no such folder"),
        (["--gpu", "99"], "GPU"),
    ],
)
def test_what_the_late_worker_lacks_is_said_on_both_sides(
    tmp_path: Path, words: list[str], said: str
) -> None:
    async def body(far: Far, ask: Ask) -> None:
        process = far.join("late", *words, cores=None if "--gpu" in words else "0")
        status, told = await far.ended(process, "late")
        assert status == 4, told
        assert said in told
        for _ in range(100):
            if "worker_failed" in far.logged():
                break
            await asyncio.sleep(0.05)
        assert said in far.logged()
        assert far.ready() == set()

    with_engine(tmp_path, body)


@pytest.mark.slow
def test_another_model_under_a_known_name(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"

    async def body(far: Far, ask: Ask) -> None:
        far.join("honest", model=model)
        await far.until_ready("honest")
        weights.write_bytes(weights.read_bytes() + b" ")
        status, told = await far.ended(far.join("liar", model=model), "liar")
        assert status == 3
        why = "is another than honest's: weights_hash differs"
        assert why in told
        assert why in far.logged()
        status, told = await far.ended(far.join("honest", model=model), "honest")
        assert (status, "a worker named honest is here already" in told) == (3, True)
        assert "a worker named honest is here already" in far.logged()
        assert await ask(PROMPTS[:5]) == RIGHT[:5]

    with_engine(tmp_path, body, latency_s=0.0)


def test_another_version_of_the_wire(tmp_path: Path) -> None:
    heard: queue.Queue[Inbound] = queue.Queue()

    def on_batch(batch: list[Inbound]) -> None:
        for inbound in batch:
            heard.put(inbound)

    async def body(far: Far, ask: Ask) -> None:
        key = read_worker_key(keyring.worker_key_path())
        own = bytes.fromhex(key.worker_secret)
        thread = SocketThread(on_batch)
        try:
            keys = ClientKeys(bytes.fromhex(key.engine_public), own)
            thread.connect("e", far.endpoint, identity=b"e1", limit_bytes=1 << 20, keys=keys)
            thread.start()
            thread.send("e", WORKER_TO_DRIVER.encode(WorkerHello(99, "old", "e1", 1)))
            events: list[Inbound] = []
            while not events or events[-1].event != "message":
                events.append(await asyncio.to_thread(heard.get, timeout=5))
            refusal = WORKER_TO_DRIVER.decode(events[-1].payload)
            assert isinstance(refusal, WorkerRefused)
            assert f"it speaks protocol 99, this engine {PROTOCOL_VERSION}" in refusal.detail
            assert "it speaks protocol 99" in far.logged()
        finally:
            thread.close()

    with_engine(tmp_path, body)


@pytest.mark.slow
def test_an_engine_that_dies_is_dialled_for_a_while_and_given_up(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        process = far.join("orphan", "--redial-s", "1")
        await far.until_ready("orphan")
        far.cut()
        status, told = await far.ended(process, "orphan")
        assert status == 3
        assert f"lost {far.endpoint}; dialling again" in told
        assert f"nobody answered at {far.endpoint} within 1 s" in told

    with_engine(tmp_path, body)


def test_an_engine_that_is_up_again_at_its_address_has_its_workers_back(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        process = far.join("faithful")
        await far.until_ready("faithful")
        far.cut()
        far.host.listen_to_remote_workers(far.endpoint)
        assert await ask(PROMPTS[:50]) == RIGHT[:50]
        assert process.poll() is None

    with_engine(tmp_path, body, latency_s=0.0)
