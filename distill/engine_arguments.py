"""The engine that a command line asks for: its workers and their devices, sandbox, metrics."""

from dataclasses import dataclass, replace
from typing import Any

from distill.adapters import needed_rank, parse
from distill.budget import Budget
from distill.errors import InputError, MachineError
from distill.limits import Limits, replaced
from distill.limits import parse as parse_limits
from distill.protocol.endpoints import host_and_port
from distill.protocol.errors import LocalProtocolError
from distill.rates import taken_from as rates_from
from distill.ray_options import check_ray, with_cluster
from distill.resident import SandboxSettings
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.worker_settings import DEFAULT_MODEL, WorkerSettings

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """The engine that a command line asks for.

    ``supervisor`` are worker servers for the supervisor alone, ``metrics_at`` is where Prometheus
    asks: address and port. None: there is no such thing.
    """

    workers: WorkerSettings
    supervisor: WorkerSettings | None
    sandbox: SandboxSettings
    metrics_at: tuple[str, int] | None

    def check_devices(self, budget: Budget) -> None:
        """Raise MachineError where GPUs are not there, or two are one, or Ray is not installed.

        Raises InputError where the time of devices is limited, and there are none.
        """
        budget.check_devices(there=self.workers.url is None or self.supervisor is not None)
        if self.workers.ray is not None:
            check_ray()
        own = self.supervisor.gpus if self.supervisor is not None else ()
        if not (self.workers.gpus or own):
            return
        from distill.worker_server import gpus
        from distill.worker_server.errors import WorkerError

        try:
            gpus.check_apart((*self.workers.gpus, *own), gpus.list_gpus())
        except WorkerError as error:
            raise MachineError(str(error)) from error


def taken_from(options: dict[str, Any], supervisor: str | None) -> EngineArguments:
    """The engine, taken out of the options of a command whose ``supervisor`` is so called.

    Raises InputError for options that do not go together.
    """
    workers = with_cluster(_worker_settings(options), options)
    if supervisor is not None and supervisor.startswith(SUPERVISOR_PREFIX):
        workers = replace(workers, supervisor_adapter=supervisor.removeprefix(SUPERVISOR_PREFIX))
    devices = options.pop("supervisor_gpus"), options.pop("supervisor_cores")
    metrics = options.pop("metrics_port")
    return EngineArguments(
        workers,
        supervisor_settings(supervisor, *devices, workers),
        SandboxSettings(
            replaced(Limits(), parse_limits(options.pop("limits"))),
            options.pop("sandbox_packages"),
            options.pop("sandbox"),
        ),
        None if metrics is None else metrics_address(metrics),
    )


def _worker_settings(options: dict[str, Any]) -> WorkerSettings:
    """The workers, taken out of a command's options."""
    model, url = options.pop("worker"), options.pop("worker_url")
    gpus, cores = options.pop("gpus"), options.pop("cores")
    adapters, max_lora_rank = options.pop("adapters"), options.pop("max_lora_rank")
    chat_template = options.pop("chat_template")
    listen, only_joined = options.pop("listen"), options.pop("only_joined")
    rates = rates_from(options, "worker")
    if (gpus is not None or cores is not None) and url is not None:
        raise InputError("--gpus and --cores are not for --worker-url: that server has its own")
    if gpus is not None and cores is not None:
        raise InputError("--gpus and --cores exclude each other")
    if (adapters or max_lora_rank or chat_template) and url is not None:
        raise InputError("--adapter, --max-lora-rank and --chat-template are not for --worker-url")
    if rates.are_given and url is None:
        raise InputError("--worker-…-per-minute is for --worker-url; a worker here needs no limit")
    _check_joining(listen, only_joined, url, gpus, cores)
    if url is not None and model is None:
        raise InputError("--worker-url needs --worker MODEL: the model that this server serves")
    named = tuple(parse(word) for word in adapters)
    if len({adapter.name for adapter in named}) < len(named):
        raise InputError("two adapters have the same name: give --adapter NAME=PATH")
    return WorkerSettings(
        model,
        url,
        split_devices("--gpus", gpus),
        split_devices("--cores", cores),
        options.pop("window_tokens"),
        rates,
        named,
        max_lora_rank or needed_rank(named),
        chat_template,
        listen,
        only_joined,
    )


def _check_joining(
    listen: str | None,
    only_joined: bool,
    worker_url: str | None,
    gpus: str | None,
    cores: str | None,
) -> None:
    """Whether the options about workers that join make sense together."""
    if worker_url is not None and (listen is not None or only_joined):
        raise InputError("--listen and --no-local-workers are not for --worker-url")
    if only_joined and (gpus is not None or cores is not None):
        raise InputError(
            "--no-local-workers excludes --gpus and --cores: they are for workers here"
        )
    if listen is not None:
        try:
            host_and_port(listen)
        except LocalProtocolError as error:
            raise InputError(f"--listen {error}") from error


def split_devices(option: str, given: str | None) -> tuple[str, ...]:
    """One word for each worker server; each of its devices once in all. Raises InputError."""
    if given is None:
        return ()
    servers = tuple(server.strip() for server in given.split(","))
    devices = _devices(option, servers)
    if not all(devices) or len(set(devices)) != len(devices):
        raise InputError(f"{option} {given}: give each once, for example {option} 0,1 or 0+1,2+3")
    return servers


def _devices(option: str, servers: tuple[str, ...]) -> list[str]:
    """``0+1``, and of cores also ``0-3``."""
    found = []
    for part in "+".join(servers).split("+") if servers else ():
        first, dash, last = part.partition("-")
        if option.endswith("cores") and dash and first.isdigit() and last.isdigit():
            found += [str(core) for core in range(int(first), int(last) + 1)]
        else:
            found.append(part.strip())
    return found


def supervisor_settings(
    supervisor: str | None, gpus: str | None, cores: str | None, workers: WorkerSettings
) -> WorkerSettings | None:
    """The worker servers of ``--supervisor local:MODEL``; None where it has none of its own.

    Raises InputError for a model without a device, and for a device that the workers have.
    """
    if supervisor is None or not supervisor.startswith(SUPERVISOR_PREFIX):
        if gpus is not None or cores is not None:
            raise InputError(
                f"--supervisor-gpus and --supervisor-cores need --supervisor {SUPERVISOR_PREFIX}…"
            )
        return None
    model = supervisor.removeprefix(SUPERVISOR_PREFIX)
    if not model:
        raise InputError(
            f"--supervisor {SUPERVISOR_PREFIX}MODEL: name a model, as --worker does; "
            f"{SUPERVISOR_PREFIX}{DEFAULT_MODEL} is the small one"
        )
    if gpus is None and cores is None:
        theirs = (workers.model or DEFAULT_MODEL, *(each.name for each in workers.adapters))
        if workers.url is not None or model not in theirs:
            raise InputError(
                f"where should {supervisor} run? Give it --supervisor-gpus or --supervisor-cores; "
                "without, it is the workers' own model or adapter, and they answer for both"
            )
        return None
    if gpus is not None and cores is not None:
        raise InputError("--supervisor-gpus and --supervisor-cores exclude each other")
    own = WorkerSettings(
        None if model == DEFAULT_MODEL else model,
        gpus=split_devices("--supervisor-gpus", gpus),
        cores=split_devices("--supervisor-cores", cores),
    )
    _check_apart(own, workers)
    return own


def _check_apart(own: WorkerSettings, workers: WorkerSettings) -> None:
    """No device twice: two engines on one would fight for its memory."""
    if workers.url is None and not (workers.gpus or workers.cores or workers.only_joined):
        raise InputError("--supervisor-gpus and --supervisor-cores need --gpus or --cores as well")
    for kind in ("gpus", "cores"):
        theirs = _devices(kind, getattr(workers, kind))
        if both := sorted(set(_devices(kind, getattr(own, kind))) & set(theirs)):
            raise InputError(
                f"--{kind} and --supervisor-{kind} both name {', '.join(both)}: give each its own"
            )


def metrics_address(given: str) -> tuple[str, int]:
    """``9100``, ``0.0.0.0:9100`` or ``[::1]:9100``; loopback unless said. Raises InputError."""
    address, _, port = given.rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in address) != address.startswith("["):
        raise InputError(
            f"--metrics-port {given}: a port, or ADDRESS:PORT, for example 9100 or 0.0.0.0:9100"
        )
    return address.strip("[]") or LOOPBACK, int(port)
