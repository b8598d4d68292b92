"""Why a worker server can't serve.

::

    WorkerError
    ├── ModelUnavailable     not found, not complete, or it can't be had here   kind "model"
    ├── DeviceUnavailable    the GPU or the cores asked for do not exist        kind "device"
    ├── ModelTooBig          the weights do not fit the device's memory         kind "memory"
    ├── EngineFailed         vLLM did not start                                 kind "engine"
    ├── EngineDied           the engine's process ended while it served         kind "engine"
    ├── DriverUnreachable    nobody answered                                    (not sent)
    └── Refused              the engine will not have this worker               (not sent)
    RequestRefused           one request failed; the engine is well
    AdapterRefused           an adapter can't be served; the engine is well

Every message says what was wrong and what to do. ``kind`` is the one of ``WorkerFailed``.
"""

from typing import ClassVar, Literal

from distill.protocol.worker_link import Failure

FailedKind = Literal["model", "device", "memory", "engine"]


class WorkerError(Exception):
    """Base of all reasons for which a worker server gives up."""

    kind: ClassVar[FailedKind] = "engine"


class ModelUnavailable(WorkerError):
    """The model can't be had; the message says why and what to do."""

    kind = "model"


class DeviceUnavailable(WorkerError):
    """The device asked for does not exist; the message lists those that do."""

    kind = "device"


class ModelTooBig(WorkerError):
    """The weights do not fit; the message has both numbers."""

    kind = "memory"


class EngineFailed(WorkerError):
    """vLLM could not start; the message is its own reason, shortened."""


class EngineDied(WorkerError):
    """The engine's process ended; nothing in flight can be finished."""


class DriverUnreachable(WorkerError):
    """Nobody answered at the endpoint, or the driver speaks another protocol."""


class Refused(WorkerError):
    """The engine will not have this worker, or no more; the message is its reason."""


class RequestRefused(Exception):
    """One request can't be served; ``failure`` has the figures, ``kind`` its kind."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.kind = failure.kind


class AdapterRefused(Exception):
    """A LoRA adapter can't be served here; the message says why and what to do."""
