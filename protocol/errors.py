"""Errors of the wire.

::

    ProtocolError
    ├── LocalProtocolError    we broke the rules: a bug of ours
    └── RemoteProtocolError   the peer broke the rules: drop the peer, keep the evidence
"""


class ProtocolError(Exception):
    """A rule of the wire was broken; the subclass says by whom."""


class LocalProtocolError(ProtocolError):
    """This process tried to send what the conversation does not allow, or too much."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes or a message that the conversation does not allow.

    ``peer`` names the sender where it is known, ``detail`` is safe to log: it never
    repeats more than a few characters of what was sent.
    """

    def __init__(self, detail: str, *, peer: str = "") -> None:
        super().__init__(f"{peer}: {detail}" if peer else detail)
        self.detail = detail
        self.peer = peer
