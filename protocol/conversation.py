"""The legal conversations, enforced: one object a peer, fed every message both ways."""

from distill.protocol.errors import LocalProtocolError, RemoteProtocolError
from distill.protocol.message import Message, Transitions


class Conversation:
    """Where one conversation stands.

    ``sent`` raises LocalProtocolError, ``received`` RemoteProtocolError, when the table
    has no transition; the state then stays as it was.
    """

    def __init__(self, transitions: Transitions, *, peer: str = "", start: str = "new") -> None:
        self._transitions = transitions
        self._peer = peer
        self.state = start

    def allows(self, kind: type[Message]) -> bool:
        """Whether a message of this kind is legal now."""
        return kind in self._transitions.get(self.state, {})

    def sent(self, message: Message) -> None:
        """Record that we send ``message``; call it before the bytes leave."""
        if not self.allows(type(message)):
            raise LocalProtocolError(f"{type(message).__name__} sent in state {self.state!r}")
        self.state = self._transitions[self.state][type(message)]

    def received(self, message: Message) -> None:
        """Record that the peer sent ``message``; call it before acting on it."""
        if not self.allows(type(message)):
            raise RemoteProtocolError(
                f"{type(message).__name__} received in state {self.state!r}", peer=self._peer
            )
        self.state = self._transitions[self.state][type(message)]
