"""Who answers a loop's runs: the worker as it is, or with a version's adapter on it.

An engine of this process's own (``Resident``) is started when somebody is to be asked for the
first time, stays up through all iterations, and takes each version into its running worker servers.
Only where a training needs their GPU it has to make room.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.adapters import NamedAdapter
from distill.closing import Closing
from distill.display import Display
from distill.engine_arguments import EngineArguments
from distill.errors import MachineError
from distill.own_engine import engine_up
from distill.resident import Resident
from distill.supervisor import background

NAME = "trained"
"""What the adapter is called in the engine, in each of its versions."""


class Workers(Closing):
    """Answers with one version at a time; a context manager."""

    @abstractmethod
    def use(self, adapter: Path | None, sha256: str = "") -> tuple[Any, dict[str, Any]]:
        """Have the adapter of this folder answer (None: the worker as it is).

        ``sha256`` is of its files, as its version was recorded. The worker for ``evaluate``, and
        options for its runs. Raises ModelError, MachineError.
        """


class EngineOfItsOwn(Workers):
    """A ``Resident``, told of on a display."""

    def __init__(
        self, engine: EngineArguments, display: Display, tell: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._display = display
        self._tell = tell
        self._resident: Resident | None = None
        self._loaded: Path | None = None
        self._up = contextlib.ExitStack()

    def use(self, adapter: Path | None, sha256: str = "") -> tuple[Any, dict[str, Any]]:
        resident = self._started()
        if adapter is None:
            return resident, {}
        if adapter != self._loaded:
            self._load(resident, adapter, sha256)
        return resident, {"adapter": NAME}

    def _started(self) -> Resident:
        if self._resident is None:
            engine = self._engine
            resident = Resident(engine.workers, engine.sandbox, engine.supervisor)
            up = engine_up(resident, self._display, engine.metrics_at, asks_workers=True)
            self._up.enter_context(up)
            self._resident = resident
        return self._resident

    def _load(self, resident: Resident, adapter: Path, sha256: str) -> None:
        """As a new version of the one name: what runs meanwhile ends on the one before."""
        self._loaded = None
        named = NamedAdapter(NAME, str(adapter))
        served = background.wait(resident.load_adapter(named))
        if sha256 and served.files_hash != sha256:
            raise MachineError(
                f"the files of {adapter} are not those that were trained: their hash is "
                f"{served.files_hash[:12]}…, not {sha256[:12]}…"
            )
        for worker, why in served.refused.items():
            self._tell(f"{worker} does not serve this version: {why}")
        self._loaded = adapter

    def make_room(self) -> None:
        """End the engine, if it was started; the next ``use`` starts another."""
        self._resident = self._loaded = None
        self._up.close()

    def close(self) -> None:
        """End it for good."""
        self.make_room()
