"""What the processes say to each other, and in which order; it starts none of them.

This room holds data and rules: the messages of every link, the legal conversations as
tables, a strict codec with size caps, and the one thread that owns ZeroMQ sockets. It
knows no other room. The written form of all this is ``docs/protocol.md``, which a test
holds against the code.
"""

PROTOCOL_VERSION = 3
"""Version of the wire, apart from the package's version; peers that differ are refused."""
