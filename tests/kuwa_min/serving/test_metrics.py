"""Metrics: the old program's names, buckets and labels, judged by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncGenerator, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from kuwa_min.errors import AnswerError, ClientDisconnected
from kuwa_min.kernel.wire import RawEncoder
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.generations.generation import Generation
from kuwa_min.serving.metrics import Counter, Histogram, Metrics
from kuwa_min.serving.slots import Slots

LONG = 60.0
LOOP = EventLoop()
PREFIX = "executor_framework_"
PROCESS_TIME = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 30),
    *(40, 50, 60, math.inf),
)
LENGTH = (*range(10, 100, 10), *range(100, 2001, 100), math.inf)
THROUGHPUT = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, math.inf)
HISTOGRAMS = {
    "process_time_seconds": PROCESS_TIME,
    "output_length_charters": LENGTH,
    "output_throughput_charters_per_second": THROUGHPUT,
}


def create(name: str = "debug", *, slots: int = 1) -> Metrics:
    """Return fresh metrics."""
    return Metrics(name, backend="DebugExecutor", version="0.1.0", slots=slots)


def samples(metrics: Metrics) -> list[Sample]:
    """Return every sample that Prometheus reads."""
    families = text_string_to_metric_families(metrics.render().decode())
    return [sample for family in families for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the one sample of this name with these labels."""
    found = [
        sample.value
        for sample in samples(metrics)
        if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return float(found[0])


def test_tokens_of_many_threads_are_all_counted() -> None:
    """Count a thousand prompts and answers on four threads."""
    metrics = create()

    def count() -> None:
        for _ in range(250):
            metrics.count_tokens(prompt_tokens=7, completion_tokens=2, cached_tokens=3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "input_tokens_total") == 7000
    assert value(metrics, "output_tokens_total") == 2000
    assert value(metrics, "cached_input_tokens_total") == 3000


def test_a_backend_adds_numbers_of_its_own() -> None:
    """Computed at each scrape; one that ends in _total is a counter."""
    metrics, held = create(), [5]
    metrics.add("held", "What it holds.", lambda: held[0])
    metrics.add("found_total", "What it found.", lambda: 2 * held[0])
    held[0] = 7
    assert (value(metrics, "held"), value(metrics, "found_total")) == (7, 14)
    kinds = {line for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")}
    assert {f"# TYPE {PREFIX}held gauge", f"# TYPE {PREFIX}found_total counter"} <= kinds


def buckets(metrics: Metrics, name: str) -> dict[float, float]:
    """Return a histogram's cumulative buckets by their bound."""
    return {
        float(sample.labels["le"]): sample.value
        for sample in samples(metrics)
        if sample.name == f"{PREFIX}{name}_bucket"
    }


# -- names, labels and buckets


def test_every_family_has_its_help_and_type() -> None:
    """What the old program shows keeps its name; the rest is ours."""
    kinds = {
        family.name.removeprefix(PREFIX): family.type
        for family in text_string_to_metric_families(create().render().decode())
        if family.documentation and family.name.startswith(PREFIX)
    }
    assert kinds == {
        "state": "gauge",
        "failed": "counter",
        "process_time_seconds": "histogram",
        "output_length_charters": "histogram",
        "output_throughput_charters_per_second": "histogram",
        "time_to_first_piece_seconds": "histogram",
        "input_tokens": "counter",
        "output_tokens": "counter",
        "cached_input_tokens": "counter",
        "aborted": "counter",
        "disconnected": "counter",
        "refused": "counter",
        "slots": "gauge",
        "busy_slots": "gauge",
        "endpoints": "gauge",
        "waiting_chats": "gauge",
        "longest_wait_seconds": "gauge",
        "waiting_seconds": "histogram",
        "model_load_seconds": "gauge",
        "registered": "gauge",
        "re_registrations": "counter",
        "thread_failures": "counter",
        "build_info": "gauge",
    }


def test_counters_end_in_total() -> None:
    """Old dashboards ask for executor_framework_failed_total."""
    assert value(create(), "failed_total") == 0
    assert b"# TYPE executor_framework_failed_total counter\n" in create().render()


def test_every_sample_is_labelled_with_the_executors_name() -> None:
    """The label is executor_name, and its value the first access code."""
    assert {sample.labels["executor_name"] for sample in samples(create("gemini-pro"))} == {
        "gemini-pro"
    }


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_the_buckets_are_the_old_ones(name: str) -> None:
    """Exactly these bounds, in this order."""
    assert tuple(buckets(create(), name)) == HISTOGRAMS[name]


def test_bounds_are_written_as_prometheus_writes_them() -> None:
    """A bound is a label, that is, text: 10.0 is not 10 for a dashboard."""
    text = create().render().decode()
    for bound in ("0.005", "1.0", "10.0", "100.0", "2000.0", "+Inf"):
        assert f'le="{bound}"' in text


@pytest.mark.parametrize(
    "name",
    ['say "hi"', "back\\slash", "two\nlines", 'all \\" of\\\n it\\\\n', "名字", "{a=1}", "", " , "],
)
def test_any_name_survives_as_a_label(name: str) -> None:
    """Backslash, quote and line end are escaped; everything else stays."""
    assert {sample.labels["executor_name"] for sample in samples(create(name))} == {name}


def test_build_info_says_what_runs() -> None:
    """Version and backend are labels of a constant 1."""
    assert value(create(), "build_info", version="0.1.0", backend="DebugExecutor") == 1


# -- numbers


def test_the_state_is_busy_while_any_slot_is() -> None:
    """One of idle and busy is 1, the other 0; both are always there."""
    metrics = create(slots=3)
    seen = []
    for count in (0, 2, 1, 0):
        metrics.observe_load(count, 5)
        seen.append(
            (
                value(metrics, "busy_slots"),
                value(metrics, "state", executor_framework_state="busy"),
                value(metrics, "state", executor_framework_state="idle"),
            )
        )
    assert seen == [(0, 0, 1), (2, 1, 0), (1, 1, 0), (0, 0, 1)]
    assert value(metrics, "slots") == 3
    assert value(metrics, "waiting_chats") == 5


def test_an_answer_is_observed_three_times() -> None:
    """2 seconds, 100 characters, 50 characters a second."""
    metrics = create()
    metrics.observe_answer(2, 100)
    sums = {name: value(metrics, f"{name}_sum") for name in HISTOGRAMS}
    assert sums == {
        "process_time_seconds": 2,
        "output_length_charters": 100,
        "output_throughput_charters_per_second": 50,
    }
    assert {value(metrics, f"{name}_count") for name in HISTOGRAMS} == {1}


def test_an_answer_in_no_time_has_no_throughput() -> None:
    """Nothing is divided by zero."""
    metrics = create()
    metrics.observe_answer(0, 100)
    assert value(metrics, "output_length_charters_count") == 1
    assert value(metrics, "output_throughput_charters_per_second_count") == 0


@pytest.mark.parametrize(
    ("length", "below", "above"), [(10, 9, 10), (11, 10, 20), (0, -1, 10), (2001, 2000, math.inf)]
)
def test_a_bound_belongs_to_its_bucket(length: int, below: float, above: float) -> None:
    """Buckets count what is at most their bound, and everything below."""
    metrics = create()
    metrics.observe_answer(1, length)
    counts = buckets(metrics, "output_length_charters")
    assert all(count == (bound > below) for bound, count in counts.items())
    assert counts[above] == 1


def test_buckets_only_grow() -> None:
    """They are cumulative, and the last one is the count."""
    metrics = create()
    for length in (5, 15, 15, 150, 5000):
        metrics.observe_answer(1, length)
    counts = list(buckets(metrics, "output_length_charters").values())
    assert counts == sorted(counts)
    assert counts[-1] == value(metrics, "output_length_charters_count") == 5


def test_no_count_is_lost_between_threads() -> None:
    """Many threads count at once, while another one reads."""
    counter = Counter("some_total", "Some.", {})
    histogram = Histogram("seconds", "Some.", {}, (1, 2))
    threads, rounds = 8, 500
    begin, done = threading.Barrier(threads + 1), threading.Event()
    torn: list[list[str]] = []

    def count() -> None:
        begin.wait()
        for n in range(rounds):
            counter.inc()
            histogram.observe(n % 3 + 0.5)

    def read() -> None:
        while not done.is_set():
            lines = histogram.lines()
            if lines[2].rpartition(" ")[2] != lines[3].rpartition(" ")[2]:
                torn.append(lines)

    workers = [threading.Thread(target=count) for _ in range(threads)]
    reader = threading.Thread(target=read)
    for thread in (*workers, reader):
        thread.start()
    begin.wait()
    for thread in workers:
        thread.join()
    done.set()
    reader.join()
    total = threads * rounds
    assert counter.lines() == [f"{PREFIX}some_total{{}} {float(total)}"]
    assert histogram.lines()[3] == f"{PREFIX}seconds_count{{}} {total}"
    assert torn == [], "the last bucket is the count at any moment"


# -- which answers count


class Client:
    """Take an answer's text as a connection does; from the given piece on, be gone."""

    def __init__(self, *, leaves_at: int = 1000) -> None:
        self.text, self.disconnected = "", False
        self.on_disconnect: Callable[[], None] = lambda: None
        self.first = threading.Event()
        self._left = leaves_at

    def write(self, piece: str | bytes) -> None:
        """Keep a piece."""
        self._left -= 1
        if self._left < 0:
            self.disconnected = True
            raise ClientDisconnected
        self.text += piece if isinstance(piece, str) else piece.decode()
        self.first.set()

    def write_nowait(self, piece: str | bytes) -> bool:
        """Keep a piece; more may be written."""
        self.write(piece)
        return True

    def finish(self) -> None:
        """End the text."""

    def pause(self, seconds: float) -> None:
        """Wait for nothing."""

    def close_early(self, final_pieces: object) -> None:
        """End the text although the backend has not."""


def start(
    metrics: Metrics, client: Client, compute: Callable[[], AsyncGenerator[str, None]]
) -> tuple[Generation, threading.Thread]:
    """Run a generation for this client on a thread of its own."""
    slots = Slots(1, metrics, lambda: None)
    answer = Generation(
        0, slots, metrics, compute, RawEncoder(chat_room=False), waiting_timeout=LONG, loop=LOOP
    )
    slots.acquire(0, answer)

    def produce() -> None:
        with contextlib.suppress(ClientDisconnected):
            answer.produce(client)

    thread = threading.Thread(target=produce)
    thread.start()
    return answer, thread


def counts(metrics: Metrics) -> dict[str, float]:
    """Return how many answers are counted as what; zeros are left out."""
    names = [f"{name}_count" for name in HISTOGRAMS]
    names += ["failed_total", "aborted_total", "disconnected_total", "busy_slots"]
    return {name: number for name in names if (number := value(metrics, name))}


async def well() -> AsyncGenerator[str, None]:
    """End well."""
    yield "hello"


async def wrong() -> AsyncGenerator[str, None]:
    """Fail in the middle."""
    yield "hello"
    raise RuntimeError("no")


async def declining() -> AsyncGenerator[str, None]:
    """Say why there is no answer."""
    raise AnswerError("[No input message entered]")
    yield ""


async def endless() -> AsyncGenerator[str, None]:
    """Wait for a stop after the first piece."""
    yield "hello"
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("compute", "leaves_at", "expected"),
    [
        (well, 9, {f"{name}_count": 1 for name in HISTOGRAMS}),
        (wrong, 9, {"failed_total": 1}),
        (declining, 9, {}),
        (well, 0, {"disconnected_total": 1}),
        (wrong, 1, {"failed_total": 1}),
    ],
)
def test_only_answers_that_ended_well_are_observed(
    compute: Callable[[], AsyncGenerator[str, None]], leaves_at: int, expected: dict[str, float]
) -> None:
    """Failed, declined and left ones are counted elsewhere or nowhere."""
    metrics = create()
    start(metrics, Client(leaves_at=leaves_at), compute)[1].join()
    assert counts(metrics) == expected
    assert value(metrics, "state", executor_framework_state="idle") == 1


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(Generation.abort, {"aborted_total": 1}), (Generation.cancel_for_shutdown, {})],
)
def test_a_stopped_answer_is_not_observed(
    stop: Callable[[Generation], None], expected: dict[str, float]
) -> None:
    """Neither one that the user aborted nor one that the end of the process cut short."""
    metrics, client = create(), Client()
    answer, thread = start(metrics, client, endless)
    assert client.first.wait(20)
    assert counts(metrics) == {"busy_slots": 1}
    stop(answer)
    thread.join()
    assert counts(metrics) == expected


def test_the_length_is_counted_in_characters_and_the_first_piece_is_timed() -> None:
    """Not in bytes, and not in pieces."""

    async def chinese() -> AsyncGenerator[str, None]:
        yield ""
        yield "你好"
        yield "！"

    metrics, client = create(), Client()
    start(metrics, client, chinese)[1].join()
    assert client.text == "你好！"
    assert value(metrics, "output_length_charters_sum") == 3
    assert value(metrics, "time_to_first_piece_seconds_count") == 1
