"""How an engine is to be started."""

from types import SimpleNamespace


class AsyncEngineArgs(SimpleNamespace):
    """Takes whatever vLLM would; see ``AsyncLLM`` for what has an effect."""
