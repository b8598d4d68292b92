"""Which runs were asked the same: what groups, attempts and comparisons of runs go by."""

import hashlib

from distill.traces.records import RunStart

DIGITS = 16


def question_hash(start: RunStart) -> str:
    """Equal for runs that put the same question to the same text, whatever else they were given."""
    asked = f"{start.context.sha256}\n{start.query}"
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
