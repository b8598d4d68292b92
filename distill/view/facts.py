"""What is known of one run so far: its records as they came, and its worker calls as columns."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from distill.models import Usage
from distill.prices import FREE, Price, PriceTable
from distill.traces import Run, records
from distill.traces.reading import add
from distill.traces.results import TaskResult
from distill.view.columns import CallColumns, CallLine, on_clock


class RunFacts:
    """Grows as lines come. ``told`` is the run without its calls; ``key`` names it on the page."""

    def __init__(self, run: str, folder: Path, key: str) -> None:
        self.key = key
        self.told = Run(run, folder)
        self.calls = CallColumns()
        self.version = 0
        """Counts what came: whoever has seen this number has seen all."""
        self.driver_pid = 0
        self._first_t = self._last_t = 0.0
        self._table = PriceTable()
        self._prices: dict[str, Price] = {}

    def add(self, record: records.SupervisorRecord) -> None:
        """A record of ``supervisor.jsonl``."""
        add(self.told, record)
        if isinstance(record, records.Score):  # by another program, at any later time
            self.version += 1
            return
        self._note(record.t)
        if isinstance(record, records.RunStart):
            self._take_prices(record.options)
        if record.producer.kind == "driver":
            self.driver_pid = record.producer.pid

    def tell(self, told: TaskResult | None) -> None:
        """What an evaluation says of the run."""
        if told != self.told.told:
            self.told.told = told
            self.version += 1

    def add_call(self, line: CallLine, offset: int, length: int) -> None:
        """A call of ``worker.jsonl``."""
        self._note(line.t)
        self.calls.add(line, offset, length, self._call_dollars(line))

    def _note(self, t: float) -> None:
        self.version += 1
        self._first_t = min(self._first_t or t, t)
        self._last_t = max(self._last_t, t)

    @property
    def first_t(self) -> float:
        """When the run began: of one that has ended, before its first record was written."""
        end = self.told.end
        begun = self._first_t if end is None else min(self._first_t, end.t - end.elapsed_s)
        return on_clock(begun)

    @property
    def last_t(self) -> float:
        """When the run ended, or the last that it wrote."""
        return on_clock(self._last_t if self.told.end is None else self.told.end.t)

    # -- dollars, by the prices that the run was given

    def _take_prices(self, options: dict[str, Any]) -> None:
        try:
            self._table = msgspec.convert(options.get("prices") or {}, PriceTable)
        except msgspec.ValidationError:
            self._table = PriceTable()

    def turn_dollars(self, turn: records.Turn) -> float:
        """What a turn cost; 0 where nobody knows."""
        model = self.told.start.supervisor if self.told.start is not None else turn.model
        return self._dollars(model, turn.usage, turn.device, turn.gpu_s)

    def _call_dollars(self, line: CallLine) -> float:
        if line.source != "sampled":
            return 0.0
        model = self.told.start.worker if self.told.start is not None else line.model.model
        return self._dollars(model, line.usage, line.model.device, line.gpu_s)

    def _dollars(self, model: str, used: records.TokenUsage, device: str, gpu_s: float) -> float:
        if model not in self._prices:
            # The log has the prices of this run's own models: where they were asked is known.
            found = (p for p in self._table.models if any(fnmatchcase(model, n) for n in p.models))
            self._prices[model] = next(found, FREE)
        usage = Usage(
            used.input_tokens,
            used.output_tokens,
            cached_input_tokens=used.cached_input_tokens,
            cache_write_tokens=used.cache_write_tokens,
        )
        dollars = self._prices[model].of_call(usage)
        return dollars + (self._table.device_dollars(device, gpu_s) if gpu_s else 0.0)
