"""From the command line's options to a loaded engine: everything that takes seconds."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distill.protocol.keys import WorkerKey
from distill.protocol.worker_link import ModelCard
from distill.user_folders import cache_folder
from distill.worker_server import device, model
from distill.worker_server.engine import Engine


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    endpoint: str
    worker: str
    model: str | None = None
    gpu: str | None = None
    cores: tuple[int, ...] | None = None
    window_tokens: int | None = None
    slots: int | None = None
    max_lora_rank: int | None = None
    chat_template: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    verbose: bool = False
    announce: bool = False
    connect_timeout_s: float = 30.0
    key: WorkerKey | None = None
    """For an engine beyond ipc."""
    redial_s: float = 60.0
    """How long such an engine is dialled, at first and when it was lost."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that has not generated a token yet."""

    engine: Engine
    card: ModelCard
    device: device.Device


def load(
    options: Options,
    scratch: str,
    event: Callable[..., None],
    on_engine_death: Callable[[str], None],
) -> Loaded:
    """Choose the device, find the model, check that it fits, start the engine.

    Blocks, in a thread of its own; ``event`` takes the lifecycle events. Raises WorkerError:
    all but EngineFailed before vLLM is imported.
    """
    cache = cache_folder()
    chosen = device.choose(options.gpu, options.cores)
    os.environ.update(chosen.environment)  # before torch is imported, and for good
    template = None if options.chat_template is None else model.read_template(options.chat_template)
    folder = model.resolve(options.model, cache)
    event("model_resolved", model=folder.name, weights_bytes=folder.weights_bytes)
    model.check_fits(folder, chosen)
    event("engine_loading", model=folder.name, device=chosen.name)
    engine = Engine(
        folder,
        chosen,
        window_tokens=options.window_tokens,
        max_lora_rank=options.max_lora_rank,
        chat_template=template,
        arguments=options.engine,
        cache=cache,
        scratch=scratch,
        log_level="INFO" if options.verbose else "WARNING",
        on_death=on_engine_death,
    )
    started = time.monotonic()
    card = engine.start()
    event("engine_started", start_s=round(time.monotonic() - started, 2))
    return Loaded(engine, card, chosen)
