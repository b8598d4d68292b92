"""Versions of a worker that are compared: what they are called, and who answers for each."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distill.adapters import CONFIG, NamedAdapter, is_path, parse
from distill.again import replay_on_loop, resume_on_loop
from distill.ask_options import BARE
from distill.engine import Engine
from distill.errors import DistillError, InputError, MachineError
from distill.models import ModelHandler
from distill.progress import Progress
from distill.protocol.client_link import Ask
from distill.resident import OWN_ASK, Resident
from distill.run_result import RunResult
from distill.supervisor.backends import Backend
from distill.supervisors import REPLAY, RecordedSupervisor
from distill.training.originals import Original
from distill.user_folders import cache_folder
from distill.worker_server.adapter_files import files_hash
from distill.worker_server.errors import AdapterRefused, ModelUnavailable
from distill.worker_server.fingerprint import fingerprint
from distill.worker_server.model import resolve

OnProgress = Callable[[Progress], None]
BASE = "base"
"""The bare model, where a version is named so and nothing else is said."""
HASH_CHARS = 12
"""Of the hash of an adapter's files, in the name that it has in an engine."""
NAME = re.compile(r"[\w@+-][\w.@+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Version:
    """A version by its name, which is its log folder's.

    ``model`` is the folder of a model of its own, None: the engine's. ``adapter`` is the folder of
    an adapter, or (no path) the name of one that is loaded; None: the bare model. With a
    ``handler`` it is that, and there is neither.
    """

    name: str
    adapter: Path | str | None = None
    model: Path | None = None
    handler: ModelHandler | Backend | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InputError(
                f"a version's name is a folder's: letters, digits and -_.@+, not {self.name!r}"
            )

    @property
    def known_hash(self) -> str | None:
        """The hash of the adapter's files that calls will name; "": none, None: it is not known.

        Raises InputError for what is no adapter's folder.
        """
        if self.handler is not None or isinstance(self.adapter, str):
            return None
        try:
            return "" if self.adapter is None else files_hash(self.adapter)
        except AdapterRefused as error:
            raise InputError(f"--version {self.name}: {error}") from error

    @property
    def has_engines_model(self) -> bool:
        """Whether an engine's own model answers, with an adapter or without."""
        return self.handler is None and self.model is None


def weights_hash(model: str | None) -> str:
    """Of a model, as worker servers find it and calls name it; empty where it is not here."""
    try:
        folder = resolve(model, cache_folder())
    except ModelUnavailable:
        return ""
    return fingerprint(folder, cache_folder()).weights


def version_from(word: str) -> Version:
    """``base``, ``NAME``, ``[NAME=]PATH`` or ``NAME=base``. Raises InputError."""
    name, equals, given = word.partition("=")
    if BASE in (word, given):
        return Version(name)
    if not equals and not is_path(word):
        return Version(word, word)
    named = parse(word)
    folder = Path(named.path)
    if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        return Version(named.name, model=folder)
    return Version(named.name, folder)


class Asker(Protocol):
    """Does recorded runs again with a version of the worker."""

    async def take(self, version: Version) -> None:
        """Make it ready to answer. Raises InputError, ModelError."""

    async def replay(self, run: Original, version: Version, folder: Path, tell: OnProgress) -> None:
        """Do a run again, into this log folder. Raises DistillError."""

    async def go_on(self, replay: str, version: Version, folder: Path, tell: OnProgress) -> None:
        """Go on with a replay that was cut off. Raises DistillError."""

    def lost(self) -> DistillError | None:
        """Why it can do no more, if that is so."""


class Handlers:
    """The driver of this process; each version is a handler."""

    async def take(self, version: Version) -> None:
        """It is made ready by its first run."""
        if version.handler is None:
            raise InputError(f"the version {version.name!r} needs an engine, or is a ModelHandler")

    async def replay(self, run: Original, version: Version, folder: Path, tell: OnProgress) -> None:
        """A run of this process."""
        handler = version.handler
        await replay_on_loop(run.run, handler, log_dir=folder, label=run.task, on_progress=tell)

    async def go_on(self, replay: str, version: Version, folder: Path, tell: OnProgress) -> None:
        """The same."""
        await resume_on_loop(folder, None, version.handler, run_id=replay, on_progress=tell)

    def lost(self) -> DistillError | None:
        """A driver that was lost is replaced for the next run."""
        return None


Put = Callable[[Original | None, dict[str, Any], OnProgress], Awaitable[tuple[RunResult, str]]]
"""Has an engine do a run again (None: go on with one), with options: the result, its summary."""


class Through:
    """An engine: one that is up, or this process's own."""

    def __init__(
        self,
        put: Put,
        load: Callable[[NamedAdapter], Awaitable[object]],
        lost: Callable[[], DistillError | None],
    ) -> None:
        self._put, self._load, self.lost = put, load, lost
        self._names: dict[str, str] = {}
        """What the adapters of versions are called in the engine."""

    async def take(self, version: Version) -> None:
        """Load its adapter, where it is a folder, under a name that nobody else's calls have."""
        if version.handler is not None:
            raise InputError(f"the version {version.name!r} is a handler: an engine has its own")
        if isinstance(version.adapter, Path):
            name = f"{version.name}-{(version.known_hash or '')[:HASH_CHARS]}"
            await self._load(NamedAdapter(name, str(version.adapter.resolve())))
            self._names[version.name] = name

    async def replay(self, run: Original, version: Version, folder: Path, tell: OnProgress) -> None:
        """A run of the engine."""
        options = {"replay_answers": "worker", "log_dir": str(folder), "label": run.task}
        await self._put(run, {**options, "adapter": self._adapter(version)}, tell)

    async def go_on(self, replay: str, version: Version, folder: Path, tell: OnProgress) -> None:
        """The same."""
        options = {"resume": f"{folder}#{replay}", "adapter": self._adapter(version)}
        await self._put(None, options, tell)

    def _adapter(self, version: Version) -> str:
        """What the engine calls what answers for it."""
        if isinstance(version.adapter, Path):
            return self._names[version.name]
        return version.adapter or BARE


def through_engine(engine: Engine) -> Through:
    """An engine that is up, which this process is a client of."""

    async def put(
        run: Original | None, options: dict[str, Any], tell: OnProgress
    ) -> tuple[RunResult, str]:
        supervisor = None if run is None else f"{REPLAY}{run.name}"
        return await engine.ask_on_loop("", [], supervisor, options, tell)

    def lost() -> DistillError | None:
        return MachineError("the engine has ended") if engine.has_ended else None

    return Through(put, engine.load_adapter_on_loop, lost)


def through_resident(resident: Resident) -> Through:
    """This process's own engine."""

    async def put(
        run: Original | None, options: dict[str, Any], tell: OnProgress
    ) -> tuple[RunResult, str]:
        supervisor = None if run is None else RecordedSupervisor(run.run)
        name = None if run is None else f"{REPLAY}{run.name}"
        return await resident.answer_on_loop(Ask(OWN_ASK, "", (), name, options), tell, supervisor)

    return Through(put, resident.load_adapter, resident.lost)
