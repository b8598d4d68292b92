"""An engine's figures for Prometheus, read when somebody asks for them.

Nothing is counted for this: a scrape reads what the engine knows anyway.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from distill.errors import MachineError
from distill.protocol.client_link import EngineStatus, WorkerState, WorkerStatus

if TYPE_CHECKING:
    from threading import Thread

LABELS = ("worker", "model", "role")


class EngineCollector(Collector):
    """The families of one scrape, from one ``look`` at the engine."""

    def __init__(self, look: Callable[[], EngineStatus]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Called in a thread of the HTTP server's."""
        status = self._look()
        yield from _engine(status)
        yield from _workers(status.workers)

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not look."""
        return iter(())


def _engine(status: EngineStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily("distill_runs_active", "Runs under way.", status.runs)
    yield CounterMetricFamily("distill_runs", "Runs begun.", status.runs_total)
    yield GaugeMetricFamily(
        "distill_queue_waiting", "Requests that no worker has been given yet.", status.waiting
    )
    yield CounterMetricFamily(
        "distill_results_dropped", "Results that came twice or too late.", status.dropped_results
    )
    calls = CounterMetricFamily(
        "distill_host_calls", "Calls of cells to functions of the host.", labels=("function",)
    )
    for function, count in status.host_calls_total.items():
        calls.add_metric((function,), count)
    yield calls


def _workers(workers: tuple[WorkerStatus, ...]) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, Callable[[WorkerStatus], float]]] = {
        "in_flight": ("Requests that it has been given.", lambda w: w.in_flight),
        "slots": ("Requests that it may be given.", lambda w: w.slots),
        "waiting": ("Of those in flight, what its engine has not begun.", lambda w: w.waiting),
        "cache_usage_ratio": ("Share of its KV cache that is taken.", lambda w: w.cache_usage),
        "last_step_age_seconds": (
            "Since its engine's last step; 0 while idle.",
            lambda w: w.last_step_age_s,
        ),
        "silent_seconds": ("Since it was last heard.", lambda w: w.silent_s),
    }
    counters: dict[str, tuple[str, Callable[[WorkerStatus], float]]] = {
        "failures": ("Requests that it could not serve.", lambda w: w.failures),
        "restarts": ("How often it was started again.", lambda w: w.restarts),
    }
    for name, (text, value) in gauges.items():
        gauge = GaugeMetricFamily(f"distill_worker_{name}", text, labels=LABELS)
        for worker in workers:
            gauge.add_metric(_labels(worker), value(worker))
        yield gauge
    for name, (text, value) in counters.items():
        counter = CounterMetricFamily(f"distill_worker_{name}", text, labels=LABELS)
        for worker in workers:
            counter.add_metric(_labels(worker), value(worker))
        yield counter
    yield _tokens(workers)
    yield _states(workers)


def _tokens(workers: tuple[WorkerStatus, ...]) -> Metric:
    tokens = CounterMetricFamily(
        "distill_worker_tokens",
        "Tokens of prompts, of completions, and of prompts found in the prefix cache.",
        labels=(*LABELS, "kind"),
    )
    for worker in workers:
        for kind, count in (
            ("prompt", worker.prompt_tokens),
            ("completion", worker.completion_tokens),
            ("cached", worker.cached_tokens),
        ):
            tokens.add_metric((*_labels(worker), kind), count)
    return tokens


def _states(workers: tuple[WorkerStatus, ...]) -> Metric:
    """One series a state, 1 for the one that holds, as Prometheus has it for enumerations."""
    states = GaugeMetricFamily(
        "distill_worker_state", "1 for the state that it is in.", labels=(*LABELS, "state")
    )
    for worker in workers:
        for state in get_args(WorkerState):
            states.add_metric((*_labels(worker), state), worker.state == state)
    return states


def _labels(worker: WorkerStatus) -> tuple[str, str, str]:
    return worker.worker, worker.model, worker.role


class MetricsServer:
    """Answers scrapes at ``http://address:port/metrics`` until ``close``; port 0 is any.

    Raises MachineError if it can't be opened.
    """

    def __init__(self, address: str, port: int, look: Callable[[], EngineStatus]) -> None:
        registry = CollectorRegistry()
        registry.register(EngineCollector(look))
        self._server: WSGIServer
        self._thread: Thread
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            raise MachineError(
                f"metrics can't be served at {address}:{port}: {error.strerror or error}. Choose "
                "another --metrics-port, or 0 for any that is free"
            ) from error
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
