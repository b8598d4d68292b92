"""Which worker servers a command line asks for: devices, the supervisor's own, metrics."""

from collections.abc import Sequence

from distill.adapters import needed_rank, parse
from distill.errors import InputError
from distill.protocol.endpoints import host_and_port
from distill.protocol.errors import LocalProtocolError
from distill.rates import Rates
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.worker_settings import DEFAULT_MODEL, WorkerSettings

LOOPBACK = "127.0.0.1"


def worker_settings(
    model: str | None,
    url: str | None,
    gpus: str | None,
    cores: str | None,
    window_tokens: int | None,
    adapters: Sequence[str],
    max_lora_rank: int | None,
    chat_template: str | None,
    rates: Rates,
    listen: str | None,
    only_joined: bool,
) -> WorkerSettings:
    """The workers of a command line. Raises InputError for options that do not go together."""
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
        window_tokens,
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
