"""The error of an engine."""


class EngineDeadError(Exception):
    """Its process has ended."""
