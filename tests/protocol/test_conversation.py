"""The legal conversations: the tables themselves, and a machine that walks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.protocol import client_link as C
from distill.protocol import jail_link as J
from distill.protocol import sandbox_link as S
from distill.protocol import worker_link as W
from distill.protocol.conversation import Conversation
from distill.protocol.errors import LocalProtocolError, RemoteProtocolError
from distill.protocol.message import Message, Shutdown, Transitions, Welcome

TABLES = {
    "worker": W.TRANSITIONS,
    "sandbox": S.TRANSITIONS,
    "jail": J.TRANSITIONS,
    "client": C.TRANSITIONS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_state_can_be_reached_and_is_in_the_table(name: str) -> None:
    table = TABLES[name]
    reached, frontier = {"new"}, ["new"]
    while frontier:
        for state in table[frontier.pop()].values():
            assert state in table, f"{state!r} has no row"
            if state not in reached:
                reached.add(state)
                frontier.append(state)
    assert reached == set(table)


@pytest.mark.parametrize(
    ("table", "messages"),
    [
        (W.TRANSITIONS, W.FromWorker | W.ToWorker),
        (S.TRANSITIONS, S.FromKeeper | S.ToKeeper),
        (J.TRANSITIONS, J.FromJail | J.ToJail),
        (C.TRANSITIONS, C.FromClient | C.ToClient),
    ],
)
def test_every_message_has_its_place(table: Transitions, messages: type) -> None:
    placed = {kind for row in table.values() for kind in row}
    assert placed == set(messages.__args__)  # type: ignore[attr-defined]


def test_a_cell_runs_only_after_ready() -> None:
    assert [state for state, row in J.TRANSITIONS.items() if J.RunCell in row] == ["idle"]
    runs = {state: row[J.RunCell] for state, row in S.TRANSITIONS.items() if J.RunCell in row}
    # In "empty" it has crossed a JailLost on its way, and is ignored.
    assert runs == {"idle": "running", "empty": "empty"}


def test_a_jail_can_not_call_out_of_turn() -> None:
    talk = Conversation(J.TRANSITIONS, peer="jail", start="idle")
    for lie in (J.Call(1, "f", (), {}), J.Final(1, 2), J.Done(1), J.Ready("3", True, "none", 0.0)):
        with pytest.raises(RemoteProtocolError, match="jail"):
            talk.received(lie)
        assert talk.state == "idle"


def test_our_own_mistake_is_told_apart_and_changes_nothing() -> None:
    talk = Conversation(W.TRANSITIONS, peer="w")
    with pytest.raises(LocalProtocolError):
        talk.sent(Welcome(1, 1.0))
    assert talk.state == "new"
    talk.received(W.WorkerHello(1, "w", "e", 1))
    talk.sent(Welcome(1, 1.0))
    assert talk.state == "loading"


def test_nothing_is_legal_once_a_peer_is_gone() -> None:
    for table in (W.TRANSITIONS, S.TRANSITIONS):
        talk = Conversation(table, start="gone")
        with pytest.raises(LocalProtocolError):
            talk.sent(Shutdown())


SAMPLES: list[Message] = [
    W.WorkerHello(1, "w", "e", 1),
    Welcome(1, 1.0),
    W.Heartbeat("ready", 0, 0.0, 0, 0),
    W.Requests(()),
    W.Results(()),
    W.Cancel(()),
    W.Drain(),
    W.WorkerGoodbye(),
    W.WorkerFailed("engine", "x"),
    Shutdown(),
]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(SAMPLES)), max_size=30))
def test_the_state_follows_the_table_and_errors_do_not_move_it(
    steps: list[tuple[bool, Message]],
) -> None:
    talk, state = Conversation(W.TRANSITIONS), "new"
    for received, message in steps:
        wanted = W.TRANSITIONS[state].get(type(message))
        act = talk.received if received else talk.sent
        if wanted is None:
            with pytest.raises(RemoteProtocolError if received else LocalProtocolError):
                act(message)
        else:
            act(message)
            state = wanted
        assert talk.state == state
