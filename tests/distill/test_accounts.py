"""The tree of accounts: nobody overspends, whatever the order; what is refused changes nothing."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import Budget, LMResponse, Usage
from distill.accounts import Account, Reservation
from distill.budget import KINDS, NOTHING, Use, amount
from distill.errors import BudgetError, InputError
from distill.supervisor.call_budget import CallBudget
from distill.supervisor.tariff import Tariff
from distill.supervisor.turn_budget import TurnBudget

counts = st.integers(0, 40)
uses = st.builds(
    Use,
    turns=counts,
    worker_calls=counts,
    tokens=counts,
    dollars=counts.map(lambda cents: cents / 100),
    gpu_s=counts.map(lambda tenths: tenths / 10),
)
limits = st.none() | st.integers(1, 120)
budgets = st.builds(
    Budget,
    turns=limits,
    worker_calls=limits,
    tokens=limits,
    dollars=st.none() | st.integers(0, 120).map(lambda cents: cents / 100),
    gpu_s=st.none() | st.integers(1, 120).map(lambda tenths: tenths / 10),
)
shares = st.integers(0, 4)
steps = st.lists(
    st.tuples(st.sampled_from(["reserve", "resize", "spend", "settle"]), counts, uses, shares),
    max_size=40,
)


class Tree:
    """A root, two children of it and a grandchild; and what each should have used and held."""

    def __init__(self, given: list[Budget]) -> None:
        root = Account(given[0])
        left, right = root.child(given[1]), root.child(given[2])
        self.accounts = [root, left, right, left.child(given[3])]
        self.paths = [[0], [1, 0], [2, 0], [3, 1, 0]]
        self.used = [NOTHING] * 4
        self.open: list[tuple[int, Reservation, Use]] = []

    def held(self, place: int) -> Use:
        total = NOTHING
        for owner, _, most in self.open:
            if place in self.paths[owner]:
                total += most
        return total

    def fits(self, owner: int, more: Use) -> bool:
        def within(place: int, kind: Any) -> bool:
            limit = getattr(self.accounts[place].budget, kind)
            if limit is None or more.of(kind) <= 0:
                return True
            total = self.used[place].of(kind) + self.held(place).of(kind) + more.of(kind)
            return bool(total <= limit + 1e-6)

        return all(within(place, kind) for place in self.paths[owner] for kind in KINDS)

    def spend(self, owner: int, used: Use) -> None:
        for place in self.paths[owner]:
            self.used[place] += used

    def check(self) -> None:
        for place, account in enumerate(self.accounts):
            held = self.held(place)
            for kind in KINDS:
                limit = getattr(account.budget, kind)
                assert account.used.of(kind) == pytest.approx(self.used[place].of(kind))
                if limit is not None:
                    assert self.used[place].of(kind) + held.of(kind) <= limit + 1e-6
                lefts = [
                    getattr(self.accounts[p].budget, kind)
                    - self.used[p].of(kind)
                    - self.held(p).of(kind)
                    for p in self.paths[place]
                    if getattr(self.accounts[p].budget, kind) is not None
                ]
                left = account.left(kind)
                assert left == (pytest.approx(max(0, min(lefts)), abs=1e-6) if lefts else None)


def part_of(most: Use, share: int) -> Use:
    """So many quarters of it."""
    return Use(
        turns=most.turns * share // 4,
        worker_calls=most.worker_calls * share // 4,
        tokens=most.tokens * share // 4,
        dollars=most.dollars * share / 4,
        gpu_s=most.gpu_s * share / 4,
    )


@given(st.lists(budgets, min_size=4, max_size=4), steps)
def test_no_account_of_a_tree_is_overspent_and_a_refusal_changes_nothing(
    given_budgets: list[Budget], script: list[tuple[str, int, Use, int]]
) -> None:
    tree = Tree(given_budgets)
    for step, pick, use, share in script:
        if step == "reserve" or not tree.open:
            owner = pick % 4
            fits = tree.fits(owner, use)
            try:
                reservation = tree.accounts[owner].reserve(use)
            except BudgetError:
                assert not fits
            else:
                assert fits
                tree.open.append((owner, reservation, use))
        else:
            place = pick % len(tree.open)
            owner, reservation, most = tree.open.pop(place)
            if step == "resize":
                tree.open.append((owner, reservation, most))
                try:
                    reservation.resize(use)
                except BudgetError:
                    assert not tree.fits(owner, use - most)
                else:
                    tree.open[-1] = (owner, reservation, use)
            elif step == "spend":
                used = part_of(most, share)
                keep = part_of(most, 4 - share)
                reservation.spend(used, keep)
                tree.spend(owner, used)
                tree.open.append((owner, reservation, keep))
            else:
                used = part_of(most, share)
                reservation.settle(used)
                tree.spend(owner, used)
        tree.check()


def test_threads_that_reserve_at_once_get_exactly_what_there_is() -> None:
    root = Account(Budget(worker_calls=500))
    children = [root.child(Budget(worker_calls=200)) for _ in range(4)]
    got: list[int] = [0] * 8
    begin = threading.Barrier(8)

    def take(number: int) -> None:
        begin.wait()
        while True:
            try:
                reservation = children[number % 4].reserve(Use(worker_calls=1, tokens=7))
            except BudgetError:
                return
            got[number] += 1
            reservation.settle(Use(worker_calls=1, tokens=5))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 500
    assert root.used == Use(worker_calls=500, tokens=2500)
    assert all(child.used.worker_calls <= 200 for child in children)


def test_a_refusal_names_the_budget_and_what_is_left_wherever_it_is_in_the_tree() -> None:
    root = Account(Budget(dollars=1.0))
    child = root.child(Budget(tokens=1000))
    root.charge(Use(dollars=0.7531))
    with pytest.raises(BudgetError, match=r"budget of \$1.0000 does not.*\$0.2469 left") as refusal:
        child.reserve(Use(dollars=0.5, tokens=10))
    assert refusal.value.budget == "dollars"
    assert refusal.value.left == pytest.approx(0.2469)
    with pytest.raises(BudgetError, match="budget of 1,000 tokens") as refusal:
        child.reserve(Use(dollars=0.1, tokens=1001))
    assert refusal.value.budget == "tokens"
    assert child.limited == ("tokens", "dollars")
    assert root.limited == ("dollars",)


def test_more_used_than_reserved_is_counted_and_then_nothing_is_left() -> None:
    account = Account(Budget(tokens=100))
    account.reserve(Use(tokens=90)).settle(Use(tokens=130))
    assert account.used.tokens == 130
    assert account.left("tokens") == 0
    with pytest.raises(BudgetError):
        account.reserve(Use(tokens=1))
    account.reserve(Use(turns=1)).release()  # of what nobody limits there is as much as one likes


def test_a_child_has_the_earlier_deadline_of_its_own_and_its_parents() -> None:
    root = Account(Budget(wall_s=50.0), spent_s=20.0)
    assert 25.0 < (root.left_s() or 0) <= 30.0
    assert root.child(Budget(wall_s=1000.0)).deadline_s == root.deadline_s
    assert (root.child(Budget(wall_s=5.0)).left_s() or 99) <= 5.0
    assert Account().left_s() is None
    assert Account(Budget(wall_s=1.0), spent_s=2.0).left_s() == 0


def test_what_is_kept_for_a_last_turn_is_the_others_when_the_run_has_ended() -> None:
    tree = Account(Budget(tokens=50_000))
    account = tree.child()
    turns = TurnBudget(account, Tariff(), CallBudget(account, Tariff()))
    messages = turns.open([{"role": "user", "content": "What?"}])
    assert 0 < (tree.left("tokens") or 0) < 50_000
    assert turns.plan(messages) is None
    reply = LMResponse("print(1)", Usage(100, 10), "m", 0.1)
    turns.replied(reply)
    assert turns.plan(messages) is None
    assert (tree.left("tokens") or 0) < 49_890 - 512
    turns.close()
    assert tree.left("tokens") == 49_890
    assert tree.used == Use(turns=1, tokens=110)


BAD: list[dict[str, Any]] = [
    {"turns": 0},
    {"turns": 1.5},
    {"tokens": True},
    {"worker_calls": -1},
    {"dollars": float("nan")},
    {"dollars": float("inf")},
    {"gpu_s": 0},
    {"wall_s": "60"},
]


@pytest.mark.parametrize("bad", BAD, ids=[f"{k}-{v!r}" for b in BAD for k, v in b.items()])
def test_a_budget_that_is_none_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"budget's {next(iter(bad))}"):
        Budget(**bad)


def test_amounts_as_they_are_told() -> None:
    assert amount("worker_calls", 1) == "1 worker call"
    assert amount("tokens", 12345) == "12,345 tokens"
    assert amount("dollars", 0.41239) == "$0.4123"
    assert amount("dollars", 0.3) == "$0.3000"
    assert amount("gpu_s", 93.04) == "93.0 s of GPU time"
    assert amount("wall_s", 1.0) == "1.0 s of wall time"
