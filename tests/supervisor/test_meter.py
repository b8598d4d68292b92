"""What a worker is said to have done, over its lives, and how fast it is."""

from distill.protocol.conversation import Conversation
from distill.protocol.worker_link import TRANSITIONS, Heartbeat, ModelCard, WorkerFailed
from distill.supervisor.meter import WINDOW_S, Counts, Meter
from distill.supervisor.worker_status import FROZEN_AFTER_S, status_of
from distill.supervisor.workers import TOLD_TO_LEAVE, Worker, WorkerSpec

CARD = ModelCard("org/m", "a", "b", "c", "bf16", "cpu", "none", "0", 4096, "raw_logprobs")


def beat(prompt: int, completion: int, cached: int = 0, failures: int = 0) -> Heartbeat:
    return Heartbeat("ready", 3, 0.1, prompt, completion, cached, 1, 0.5, failures)


def test_tokens_of_the_last_seconds_and_of_all_lives() -> None:
    meter = Meter()
    assert meter.recent == (Counts(), 0.0)
    for second in range(30):  # slow at first, then ten times as fast
        done = second * 10 if second < 15 else 150 + (second - 15) * 100
        meter.note(beat(done, second, done // 2), 1000.0 + second)
    counts, seconds = meter.recent
    assert seconds == WINDOW_S
    assert counts.prompt_tokens / seconds == 100
    assert meter.total == Counts(1550, 775, 29, 0)
    meter.ended()
    meter.restarted("silent for 6 s")
    assert meter.recent == (Counts(), 0.0)
    meter.note(beat(7, 2, 1, 4), 1040.0)
    assert meter.total == Counts(1557, 776, 31, 4)
    assert (meter.restarts, meter.last_fault) == (1, "silent for 6 s")


def worker(state: str, role: str = "worker") -> Worker:
    conversation = Conversation(TRANSITIONS, start=state)
    spec = WorkerSpec("w", (), {}, role)  # type: ignore[arg-type]
    return Worker("w", spec, conversation, card=CARD, slots=8, heard_s=100.0)


def test_the_state_that_is_shown() -> None:
    assert [status_of(worker(state), 100.0).state for state in TRANSITIONS] == [
        *("starting", "loading", "loading", "ready", "draining", "restarting")
    ]
    assert status_of(worker("ready"), 100.1 + FROZEN_AFTER_S).state == "frozen"
    leaving = worker("ready")
    leaving.is_leaving = True
    assert status_of(leaving, 100.0).state == "draining"
    exited = worker("ready")
    exited.has_exited = True
    assert status_of(exited, 100.0).state == "restarting"
    ended = worker("ended")
    ended.has_exited = True
    assert status_of(ended, 100.0).state == "restarting"
    ended.failure = WorkerFailed("engine", "out of luck")
    assert status_of(ended, 100.0).state == "failed"
    assert status_of(ended, 100.0).fault == "out of luck"
    ended.failure = WorkerFailed("engine", TOLD_TO_LEAVE)
    assert status_of(ended, 100.0).state == "left"


def test_one_that_is_not_heard_has_no_speed() -> None:
    seen = worker("ready")
    seen.meter.note(beat(0, 0), 90.0)
    seen.meter.note(beat(1000, 100, 250), 100.0)
    now = status_of(seen, 100.0)
    assert (now.prompt_tokens_per_s, now.completion_tokens_per_s) == (100.0, 10.0)
    assert (now.cached_share, now.cache_usage, now.waiting) == (0.25, 0.5, 1)
    later = status_of(seen, 104.0)
    assert (later.state, later.prompt_tokens_per_s, later.prompt_tokens) == ("frozen", 0.0, 1000)


def test_a_supervisors_model_has_a_queue_of_its_own() -> None:
    boss, hand = worker("ready", "supervisor"), worker("ready")
    assert (boss.model, hand.model) == ("local:org/m", "org/m")
    assert not boss.may_serve("org/m")
    loading = worker("loading", "supervisor")
    loading.card = None
    assert loading.may_serve("local:another")
    assert not loading.may_serve("org/m")
