"""The engine that a command brings up: downloads, start, wait for questions, what people hear."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from distill.display import Display
from distill.errors import MachineError, ModelError
from distill.resident import Resident
from distill.supervisor.keyring import server_keys, worker_key_path
from distill.user_folders import cache_folder
from distill.worker_settings import WorkerSettings


@contextlib.contextmanager
def engine_up(
    resident: Resident,
    display: Display,
    metrics_at: tuple[str, int] | None,
    *,
    asks_workers: bool,
) -> Iterator[None]:
    """The engine, with its workers up if any will be asked."""
    try:
        display.watch(resident.status)
        with _scraped(resident, metrics_at, display):
            if asks_workers:
                if (endpoint := resident.listen(display.line)) is not None:
                    display.line(_how_to_join(endpoint, resident.settings))
                display.phase(resident.wanted)
                resident.start(lambda status: display.phase(status or "all workers have a place"))
            yield
    finally:
        display.phase("ending")
        display.watch(None)
        resident.close()


@contextlib.contextmanager
def _scraped(resident: Resident, at: tuple[str, int] | None, display: Display) -> Iterator[None]:
    """Prometheus may ask there meanwhile; nothing is imported if it may not."""
    if at is None:
        yield
        return
    from distill.metrics import MetricsServer

    server = MetricsServer(*at, resident.status)
    display.line(f"Metrics: {server.url}")
    try:
        yield
    finally:
        server.close()


def _how_to_join(endpoint: str, workers: WorkerSettings) -> str:
    """For a person at another machine."""
    key = worker_key_path()
    model = f" --worker {workers.model}" if workers.model else ""
    return (
        f"On another machine, as this user:\n"
        f"  bin/distill-worker --connect {endpoint}{model} --key {key}\n"
        f"The key lets it in. Where the home folder is another, copy it first:\n"
        f"  scp -p {key} MACHINE:worker.key"
    )


def stay(resident: Resident, display: Display) -> int:
    """Answer clients until Ctrl-C. Raises MachineError, ModelError: it can serve no more."""
    resident.serve()
    display.phase("")
    display.line(
        f"The engine is up ({resident.worker_name}). In another terminal:\n"
        f'  {distill_command()} run -c FILE -q "QUESTION"\n'
        f"or, in Python:  distill.Engine({resident.endpoint!r})\n"
        "Ctrl-C ends it."
    )
    with contextlib.suppress(KeyboardInterrupt):
        resident.wait()
        raise MachineError("the engine's launcher died, and the workers with it; start it again")
    return 0


def prepare(*wanted: WorkerSettings) -> None:
    """Do the downloads and conversions that a run would do. Raises ModelError."""
    from distill.worker_server import model
    from distill.worker_server.errors import WorkerError

    for settings in wanted:
        if settings.url is not None:
            click.echo("nothing to prepare: the worker is behind --worker-url", err=True)
            continue
        try:
            folder = model.resolve(settings.model, cache_folder())
        except WorkerError as error:
            raise ModelError(str(error)) from error
        click.echo(f"ready: {folder.path}", err=True)
        if settings.listen is not None:
            server_keys()
            click.echo(f"ready: {worker_key_path()}", err=True)


def distill_command() -> str:
    """How to call this program from another terminal."""
    beside = Path(sys.executable).with_name("distill")
    return str(beside) if beside.exists() else f"{sys.executable} -m distill"
