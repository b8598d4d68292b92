"""Which workers an engine has, and what that comes to: worker servers to start, or an endpoint."""

import os
from dataclasses import dataclass

from distill.adapters import NamedAdapter
from distill.models import OpenAIHandler
from distill.protocol.endpoints import EVERYWHERE, host_and_port
from distill.protocol.keys import KEY_VARIABLE, read_worker_key
from distill.rates import UNLIMITED, Rates
from distill.supervisor import driver, keyring
from distill.supervisor.placement import Placement, RayCluster
from distill.supervisor.worker_command import worker_argv, worker_environment
from distill.supervisor.workers import Role, WorkerSpec

WORKER_KEY = "DISTILL_WORKER_KEY"
"""The environment variable with the key of ``--worker-url``."""
DEFAULT_MODEL = "default"
SMALL_MODEL = "SmolLM2-135M-Instruct"
"""What serves where nobody names a model."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Which workers an engine has: one server for each of ``gpus``, or of ``cores``.

    Both empty means one, on what is there, or none if ``only_joined``, or those that are placed on
    the cluster ``ray``. Others may join at ``listen``, a tcp address. ``rates`` are ``url``'s.
    The first of ``adapters`` answers where a run names none, but for ``supervisor_adapter``, which
    writes the code; ``max_lora_rank`` None means that workers take no adapters.
    """

    model: str | None = None
    url: str | None = None
    gpus: tuple[str, ...] = ()
    cores: tuple[str, ...] = ()
    window_tokens: int | None = None
    rates: Rates = UNLIMITED
    adapters: tuple[NamedAdapter, ...] = ()
    max_lora_rank: int | None = None
    chat_template: str | None = None
    listen: str | None = None
    only_joined: bool = False
    ray: RayCluster | None = None
    supervisor_adapter: str | None = None

    @property
    def default_adapter(self) -> str | None:
        """The adapter that answers where a run names none; None: the bare model does."""
        names = (each.name for each in self.adapters)
        return next((name for name in names if name != self.supervisor_adapter), None)


def endpoint_worker(settings: WorkerSettings) -> OpenAIHandler:
    """The model behind ``settings.url``, which answers. Raises InputError, ModelError."""
    assert settings.model is not None  # as the command line has checked
    # Its own key: the supervisor's must not go to another server.
    key = os.environ.get(WORKER_KEY) or "none"
    handler = OpenAIHandler(
        settings.model,
        settings.url,
        key,
        names=("--worker-url", WORKER_KEY),
        requests_per_minute=settings.rates.requests_per_minute,
        tokens_per_minute=settings.rates.tokens_per_minute,
    )
    handler.check()
    handler.window_tokens = settings.window_tokens or handler.window_tokens
    return handler


def specs_of(settings: WorkerSettings, endpoint: str, role: Role = "worker") -> list[WorkerSpec]:
    """One worker server for each device that is named, or one on what is there."""
    if settings.only_joined:
        return []
    devices = [{"gpu": gpu} for gpu in settings.gpus] + [{"cores": one} for one in settings.cores]
    specs = []
    for number, device in enumerate(devices or [{}]):
        name = f"{role}-{number}"
        argv = _argv(settings, endpoint, name, device)
        specs.append(WorkerSpec(name, tuple(argv), worker_environment(), role))
    return specs


def _argv(settings: WorkerSettings, endpoint: str, name: str, device: dict[str, str]) -> list[str]:
    return worker_argv(
        endpoint,
        name,
        settings.model,
        **device,
        window_tokens=settings.window_tokens,
        max_lora_rank=settings.max_lora_rank,
        chat_template=settings.chat_template,
    )


def placed_specs(
    settings: WorkerSettings, cluster: RayCluster, placement: Placement, host: driver.Driver
) -> list[WorkerSpec]:
    """The cluster's worker servers; what is in braces is known on the node.

    They join over tcp, wherever they are. Raises InputError if this engine can't listen.
    """
    asked = settings.listen or "tcp://*:*"
    endpoint = host.endpoints.get(driver.REMOTE_WORKERS) or host.listen_to_remote_workers(asked)
    if host_and_port(asked)[0] in EVERYWHERE:
        endpoint = f"tcp://{{driver}}:{host_and_port(endpoint)[1]}"
    key = {KEY_VARIABLE: read_worker_key(keyring.worker_key_path()).text}
    device = {"cores" if cluster.cores_per_worker else "gpu": "{devices}"}
    specs = []
    for name in (f"ray-{number}" for number in range(cluster.num_workers)):
        _, *argv = _argv(settings, endpoint, name, device)
        specs.append(WorkerSpec(name, ("{python}", *argv), key, starter=placement))
    return specs
