"""vLLM's settings, of which the stand-in has none."""


def enable_envs_cache() -> None:
    """There is nothing to read again."""
