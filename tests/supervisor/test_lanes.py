"""Who is served next: fair between runs, questions before batches, one passage to one worker."""

import random
import tracemalloc
from collections import Counter

from distill.protocol import worker_link as W
from distill.supervisor.answer_form import AnswerForm
from distill.supervisor.lanes import ALIKE_CHARS, Queue, grouped
from distill.supervisor.requests import Pending, Questions, Submission

TOKENS = 10


def add(
    queue: Queue, run: str, prompts: list[str], *, interactive: bool = False, tokens: int = TOKENS
) -> None:
    sampling = W.Sampling(max_tokens=tokens)
    requests = [
        W.Request(f"{run}-{p[-20:]}-{i}", 1, sampling, prompt=p) for i, p in enumerate(prompts)
    ]
    submission = Submission(requests, lambda _: None, run, "m", interactive=interactive)
    queue.add(submission, 0.0)


def pop(queue: Queue, worker: str = "w") -> Pending:
    pending = queue.pop(worker, lambda _: True)
    assert pending is not None
    return pending


def passages(count: int, questions: int) -> list[str]:
    """Every question of every passage, question by question."""
    texts = [f"passage {n} " * ALIKE_CHARS for n in range(count)]
    return [f"{text}\nquestion {q}" for q in range(questions) for text in texts]


def test_runs_take_turns_whatever_they_have_waiting() -> None:
    queue = Queue()
    add(queue, "big", [f"b{n}" for n in range(1000)])
    add(queue, "small", [f"s{n}" for n in range(10)])
    first = Counter(pop(queue).submission.run for _ in range(20))
    assert first == {"big": 10, "small": 10}


def test_a_run_with_long_prompts_gets_as_many_tokens_not_as_many_calls() -> None:
    queue = Queue()
    add(queue, "long", [f"l{n}" for n in range(100)], tokens=90)
    add(queue, "short", [f"s{n}" for n in range(100)], tokens=10)
    served = Counter(pop(queue).submission.run for _ in range(50))
    assert served["short"] >= 7 * served["long"]


def test_a_run_that_comes_late_is_owed_nothing() -> None:
    queue = Queue()
    add(queue, "early", [f"e{n}" for n in range(100)])
    for _ in range(50):
        pop(queue)
    add(queue, "late", [f"l{n}" for n in range(100)])
    served = Counter(pop(queue).submission.run for _ in range(20))
    assert served == {"early": 10, "late": 10}


def test_questions_go_before_batches() -> None:
    queue = Queue()
    add(queue, "a", [f"a{n}" for n in range(5)])
    add(queue, "b", ["now"], interactive=True)
    assert pop(queue).request.prompt == "now"


def test_what_a_dead_worker_had_goes_first() -> None:
    queue = Queue()
    add(queue, "a", ["one", "two", "three"])
    lost = pop(queue)
    queue.put_back(lost)
    assert pop(queue) is lost
    assert len(queue) == 2


def test_a_passage_stays_with_its_worker() -> None:
    queue = Queue()
    add(queue, "a", passages(20, 3))
    at: dict[str, set[str]] = {}
    turns = random.Random(1)
    while len(queue):
        worker = turns.choice(["w0", "w1", "w2"])
        at.setdefault(str(pop(queue, worker).request.prompt)[:20], set()).add(worker)
    # At the very end those who have nothing left help the others.
    assert sum(len(workers) > 1 for workers in at.values()) <= 2


def test_nobody_is_idle_while_another_has_work_that_it_has_not_begun() -> None:
    queue = Queue()
    add(queue, "a", passages(1, 10))
    taken = {pop(queue, worker).request.id for worker in ("w0", "w1") * 5}
    assert len(taken) == 10
    assert not len(queue)


def test_the_passage_of_a_worker_that_is_gone_goes_to_one_other() -> None:
    queue = Queue()
    add(queue, "a", passages(2, 5))
    taken = pop(queue, "gone")
    queue.release("gone")
    assert str(pop(queue, "w").request.prompt)[:20] == str(taken.request.prompt)[:20]


def test_no_room_takes_nothing() -> None:
    queue = Queue()
    add(queue, "a", ["one"])
    assert queue.pop("w", lambda _: False) is None
    assert len(queue) == 1


def test_a_short_instruction_makes_no_group() -> None:
    assert len(grouped([f"Answer in one word. {n}" + "x" * 50 for n in range(30)])) == 30


def test_groups_and_what_is_in_them_keep_their_order() -> None:
    texts = ["short", *passages(3, 2), "short"]
    assert grouped(texts) == [[0], [1, 4], [2, 5], [3, 6], [7]]


def test_a_run_is_removed_wherever_it_waits() -> None:
    queue = Queue()
    add(queue, "a", passages(3, 4))
    queue.put_back(pop(queue, "w0"))
    pop(queue, "w1")
    add(queue, "b", ["q"])
    assert len(queue) == len([*queue]) == 12
    queue.remove("a")
    queue.remove("nobody's")
    assert [pending.submission.run for pending in queue] == ["b"]
    assert len(queue) == 1


def test_what_waits_is_numbers() -> None:
    prompts = [f"tiny {number}" for number in range(20_000)]
    questions = Questions("r-1", prompts, W.Sampling(), "ids", AnswerForm())
    queue = Queue()
    tracemalloc.start()
    try:
        queue.add(Submission(questions, lambda _: None, "r", "m"), 0.0)
        waiting_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert waiting_bytes < 16 * len(prompts)
    assert [pop(queue).request.id for _ in range(3)] == ["r-1.0", "r-1.1", "r-1.2"]


def test_all_can_be_taken_out_at_once() -> None:
    queue = Queue()
    add(queue, "a", passages(3, 4))
    add(queue, "b", ["q"], interactive=True)
    ids = {pending.request.id for pending in queue}
    assert {pending.request.id for pending in queue.clear()} == ids
    assert len(ids) == 13
    assert len(queue) == 0


def test_a_group_that_two_workers_hold_is_counted_once() -> None:
    queue = Queue()
    add(queue, "a", passages(1, 4))
    pop(queue, "w0")
    pop(queue, "w1")
    assert len(queue) == len([*queue]) == 2
    assert len([*queue.clear()]) == 2


def test_every_request_comes_out_once() -> None:
    turns = random.Random(2)
    queue = Queue()
    expected = 0
    for run in range(5):
        add(queue, f"r{run}", passages(4, 3))
        add(queue, f"r{run}", [f"q{n}" for n in range(3)], interactive=True)
        expected += 15
    seen: list[str] = []
    while len(queue):
        pending = pop(queue, turns.choice("abc"))
        if turns.random() < 0.1:
            queue.put_back(pending)
        elif turns.random() < 0.05:
            seen.append(pending.request.id)
            queue.release(turns.choice("abc"))
        else:
            seen.append(pending.request.id)
    assert len(seen) == expected
    assert queue.pop("a", lambda _: True) is None
