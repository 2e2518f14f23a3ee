"""The executor's metrics in Prometheus' text format; every method is thread-safe."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from kuwa_min.process import supervision

PREFIX = "executor_framework_"
# Upper bounds of histogram buckets: seconds, characters, characters per second.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5)
PROCESS_SECONDS = (*SECONDS, 10, 20, 30, 40, 50, 60)
WAITING_SECONDS = (*PROCESS_SECONDS, 120, 180, 240, 300)
LENGTHS = (*range(10, 100, 10), *range(100, 2001, 100))
RATES = (1, 5, *range(10, 101, 10), 200)


def _number(value: float) -> str:
    return repr(float(value))


def _labels(pairs: Mapping[str, str]) -> str:
    escaped = (
        '{}="{}"'.format(name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in pairs.items()
    )
    return "{" + ",".join(escaped) + "}"


class Metric:
    """A gauge: one number under a name. Other kinds of metrics derive from it."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Mapping[str, str]) -> None:
        self.name, self.text, self.labels = PREFIX + name, text, dict(labels)
        self._lock = threading.Lock()
        self._value = 0.0

    @property
    def value(self) -> float:
        """Return the current value."""
        return self._value

    def set(self, value: float) -> None:
        """Replace the value."""
        self._value = value

    def lines(self) -> list[str]:
        """Return the sample lines, without HELP and TYPE."""
        return [f"{self.name}{_labels(self.labels)} {_number(self.value)}"]

    def render(self) -> list[str]:
        """Return HELP, TYPE and the sample lines."""
        head = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} {self.kind}"]
        return head + self.lines()


class FunctionGauge(Metric):
    """A gauge whose value is computed at each scrape."""

    def __init__(self, name: str, text: str, labels: Mapping[str, str]) -> None:
        super().__init__(name, text, labels)
        self.function: Callable[[], float] = lambda: 0.0

    @property
    def value(self) -> float:
        """Compute the value."""
        return self.function()


class Counter(Metric):
    """A value that only grows; its name ends in _total."""

    kind = "counter"

    def inc(self, amount: float = 1) -> None:
        """Add to the value."""
        with self._lock:
            self._value += amount


class FunctionCounter(FunctionGauge):
    """A counter whose value is kept elsewhere."""

    kind = "counter"


class StateSet(Metric):
    """Several named states, of which the current one is 1 and the others are 0."""

    def __init__(
        self, name: str, text: str, labels: Mapping[str, str], states: Sequence[str]
    ) -> None:
        super().__init__(name, text, labels)
        self._states, self.current = states, states[0]

    def lines(self) -> list[str]:
        """Return a sample line per state."""
        return [
            f"{self.name}{_labels({**self.labels, self.name: state})} "
            f"{_number(state == self.current)}"
            for state in self._states
        ]


class Histogram(Metric):
    """Observations counted in buckets with these upper bounds."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, labels: Mapping[str, str], bounds: Sequence[float]
    ) -> None:
        super().__init__(name, text, labels)
        self._bounds, self._counts = tuple(bounds), [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one observation."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._value += value

    def lines(self) -> list[str]:
        """Return cumulative buckets, count and sum."""
        with self._lock:
            counts, total = list(self._counts), self._value
        lines, seen = [], 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            seen += count
            le = "+Inf" if bound == float("inf") else _number(bound)
            lines.append(f"{self.name}_bucket{_labels({**self.labels, 'le': le})} {seen}")
        own = _labels(self.labels)
        return [*lines, f"{self.name}_count{own} {seen}", f"{self.name}_sum{own} {_number(total)}"]


class Metrics:
    """All metrics of an executor, labelled with its first access code.

    Observed on the HTTP worker threads, on the event loop and on the registration thread.
    """

    def __init__(self, executor_name: str, *, backend: str, version: str, slots: int) -> None:
        labels = {"executor_name": executor_name}
        self.state = StateSet("state", "What the executor does now.", labels, ("idle", "busy"))
        self.failed = Counter("failed_total", "Answers that ended in an error.", labels)
        self.aborted = Counter("aborted_total", "Answers that a person stopped.", labels)
        self.disconnected = Counter("disconnected_total", "Answers whose reader left.", labels)
        self.refused = Counter("refused_total", "Chats refused: busy, loading, stopping.", labels)
        self.process_time = Histogram(
            "process_time_seconds", "Seconds from request to end.", labels, PROCESS_SECONDS
        )
        self.output_length = Histogram(
            "output_length_charters", "Characters of an answer.", labels, LENGTHS
        )
        self.throughput = Histogram(
            "output_throughput_charters_per_second", "Characters per second.", labels, RATES
        )
        self.first_piece = Histogram(
            "time_to_first_piece_seconds", "Seconds to the first text.", labels, PROCESS_SECONDS
        )
        self.prompt_tokens = Counter("input_tokens_total", "Prompt tokens, where known.", labels)
        self.cached_tokens = Counter(
            "cached_input_tokens_total", "Prompt tokens that a cache had already.", labels
        )
        self.completion_tokens = Counter(
            "output_tokens_total", "Answer tokens, where known.", labels
        )
        self.slots = Metric("slots", "Chats that can run at once.", labels)
        self.slots.set(slots)
        self.busy_slots = Metric("busy_slots", "Chats running now.", labels)
        self.endpoints = Metric("endpoints", "Chats that can run or wait at once.", labels)
        self.endpoints.set(slots)
        self.waiting = Metric("waiting_chats", "Chats that wait for a slot now.", labels)
        self.longest_wait = FunctionGauge(
            "longest_wait_seconds", "Seconds that the oldest of them has waited.", labels
        )
        self.waited = Histogram(
            "waiting_seconds", "Seconds that chats waited for their slot.", labels, WAITING_SECONDS
        )
        self.load_seconds = Metric("model_load_seconds", "Seconds that setup took.", labels)
        self.registered = Metric("registered", "1 while the Kernel lists every endpoint.", labels)
        self.registrations = Counter(
            "re_registrations_total", "Times the Kernel had lost us.", labels
        )
        self.thread_failures = FunctionCounter(
            "thread_failures_total", "Unexpected errors of threads; each is in the log.", labels
        )
        self.thread_failures.function = supervision.failures
        self.build = Metric(
            "build_info", "What runs here.", {**labels, "version": version, "backend": backend}
        )
        self.build.set(1)
        self.of_backend: dict[str, Metric] = {}  # by name

    def add(self, name: str, text: str, function: Callable[[], float]) -> None:
        """Add a number of the backend's: a counter if its name ends in _total, else a gauge."""
        kind = FunctionCounter if name.endswith("_total") else FunctionGauge
        metric = kind(name, text, self.state.labels)
        metric.function = function
        self.of_backend = {**self.of_backend, name: metric}

    def observe_load(self, running: int, waiting: int) -> None:
        """Set how many chats run and how many wait."""
        self.busy_slots.set(running)
        self.waiting.set(waiting)
        self.state.current = "busy" if running else "idle"

    def observe_answer(self, seconds: float, characters: int) -> None:
        """Observe an answer that ended well."""
        self.process_time.observe(seconds)
        self.output_length.observe(characters)
        if seconds > 0:
            self.throughput.observe(characters / seconds)

    def count_tokens(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """Add to the token counters."""
        self.prompt_tokens.inc(prompt_tokens)
        self.cached_tokens.inc(cached_tokens)
        self.completion_tokens.inc(completion_tokens)

    def render(self) -> bytes:
        """Return all metrics as Prometheus text."""
        own = (value for value in vars(self).values() if isinstance(value, Metric))
        metrics = (*own, *self.of_backend.values())
        return ("\n".join(line for metric in metrics for line in metric.render()) + "\n").encode()
