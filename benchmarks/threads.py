"""Ask what the threads of the llamacpp backend are worth: tokens a second of one real answer.

Ours over HTTP with as many threads as it takes by itself, ours with one, and the bare decode loop
of the library with as many as there are cores. Each answer is greedy and as long as was asked for.
Where other programs compute, threads wait for each other: the load is printed below the table.
"""

import argparse
import os
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engines.llama_engines import CONTEXT, OursWithLlama
from engines.servers import LOOPS, Library, running
from harness.answer import Answer, form_request
from harness.chat import WrongAnswerError, read_together
from harness.contestants import slot_path
from harness.process import HOST
from harness.rounds import interleaved, medians
from harness.table import Table, at_least

QUESTION = "Tell me a long story about a dog, a cat and a lighthouse."
DEFAULT, ONE = "default threads", "one thread"
LIMIT_SECONDS = 300.0
COUNTER = "output_tokens_total"  # the end of the metric's name


def main() -> None:
    """Measure in interleaved rounds after a warm-up round, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file whose answer is long enough")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--file", type=Path, metavar="PYZ", help="default: the sources")
    options = parser.parse_args()
    model, cores = options.model.resolve(), len(os.sched_getaffinity(0))
    library = ("--model_path", str(model), "--context", str(CONTEXT), "--threads", str(cores))
    makers: dict[str, Callable[[], Any]] = {
        DEFAULT: lambda: OursWithLlama(options, model, slots=1, threads=None),
        ONE: lambda: OursWithLlama(options, model, slots=1),
        LOOPS: lambda: Library("engines.llama_loops", *library),
    }
    with running(makers, makers) as engines:
        contestants = {
            **{name: partial(over_http, engines[name], options.tokens) for name in (DEFAULT, ONE)},
            LOOPS: partial(alone, engines[LOOPS], options.tokens),
        }
        interleaved(contestants, 1)
        found = medians(interleaved(contestants, options.rounds))
    rows = [
        at_least(DEFAULT, found[DEFAULT], LOOPS, found[LOOPS], 0.8),
        at_least(DEFAULT, found[DEFAULT], ONE, found[ONE], 1.1),
    ]
    load = Path("/proc/loadavg").read_text().split()[0]
    title = f"{model.name}: tokens a second of {options.tokens}, median of {options.rounds}"
    print(Table(title, rows, [f"{cores} cores, load {load} at the end"]))


def over_http(engine: OursWithLlama, tokens: int) -> float:
    """Ask ours; from the connect to the last byte."""
    before = written(engine)
    fields = {engine.length_option: tokens}
    started = time.perf_counter()
    answer = Answer(engine.port, form_request(slot_path(0), [QUESTION], **fields), tokens)
    read_together([answer], LIMIT_SECONDS)
    answer.socket.close()
    seconds = time.perf_counter() - started
    if written(engine) - before != tokens:
        raise WrongAnswerError(f"not {tokens} tokens: {answer.said()!r}")
    return tokens / seconds


def written(engine: OursWithLlama) -> int:
    """Return how many tokens ours has written so far, by its own metrics."""
    with urllib.request.urlopen(f"http://{HOST}:{engine.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.partition("{")[0].endswith(COUNTER)]
    return int(float(counts[0].rpartition(" ")[2]))


def alone(engine: Library, tokens: int) -> float:
    """Ask the library's bare loop."""
    return tokens / float(engine.answer("bare", [QUESTION], tokens)["seconds"])


if __name__ == "__main__":
    main()
