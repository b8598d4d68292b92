"""What one cell printed, kept outside the jail so that it survives the cell's death."""

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import Output
from distill.sandbox.jail.limits import told

SLACK_BYTES = 1 << 20


class Transcript:
    """Both streams of a cell, at most ``limit_bytes``; the rest is counted.

    Kept as bytes: a million prints of one character are a million bytes here, not a million
    objects. An honest interpreter stops sending at the limit. One that goes on beyond twice
    the limit is not honest.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self._seen_bytes = self._left_out_bytes = 0

    def add(self, output: Output) -> None:
        """Keep what fits. Raises RemoteProtocolError for a flood."""
        data = output.text.encode()
        room = max(0, self._limit_bytes - self._seen_bytes)
        self._kept[output.stream] += data[:room]
        self._seen_bytes += len(data)
        if self._seen_bytes > 2 * self._limit_bytes + SLACK_BYTES:
            raise RemoteProtocolError(
                f"{self._seen_bytes} bytes of output {told('output_bytes', self._limit_bytes)}",
                peer="jail",
            )

    def drop(self, amount_bytes: int) -> None:
        """Count what the jail itself has left out, and say so at the end of stderr."""
        self._left_out_bytes += amount_bytes
        if self.dropped_bytes:
            limit = told("output_bytes", self._limit_bytes)
            self._kept["stderr"] += f"{self.dropped_bytes} bytes were not kept {limit}\n".encode()

    @property
    def dropped_bytes(self) -> int:
        """What came over the limit, or did not come."""
        return max(0, self._seen_bytes - self._limit_bytes) + self._left_out_bytes

    @property
    def stdout(self) -> str:
        """What went to stdout."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """What went to stderr."""
        return self._text("stderr")

    def _text(self, stream: str) -> str:
        # Only a character that the limit has cut in half can be broken.
        return self._kept[stream].decode("utf-8", "ignore")
