"""Ask what the threads of the llamacpp backend are worth: tokens a second of one real answer.

Ours over HTTP with as many threads as it takes by itself, ours with one, and the bare decode loop
of the library with as many as there are cores. Each answer is greedy and as long as was asked for.
Where other programs compute, threads wait for each other: the load is printed below the table.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engines.llama_engines import CONTEXT
from engines.real_chats import RealOurs, written
from engines.servers import LOOPS, Library, running
from harness.chat import WrongAnswerError, read_together
from harness.rounds import interleaved, medians
from harness.table import Table, at_least

QUESTION = "Tell me a long story about a dog, a cat and a lighthouse."
DEFAULT, ONE = "default threads", "one thread"
LIMIT_SECONDS = 300.0


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
        DEFAULT: lambda: RealOurs(options, model, slots=1, threads=None),
        ONE: lambda: RealOurs(options, model, slots=1),
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


def over_http(engine: RealOurs, tokens: int) -> float:
    """Ask ours; from the connect to the last byte."""
    before, started = written(engine), time.perf_counter()
    answer = engine.chat(0, [QUESTION], tokens)
    read_together([answer], LIMIT_SECONDS)
    answer.socket.close()
    seconds = time.perf_counter() - started
    if written(engine) - before != tokens:
        raise WrongAnswerError(f"not {tokens} tokens: {answer.said()!r}")
    return tokens / seconds


def alone(engine: Library, tokens: int) -> float:
    """Ask the library's bare loop."""
    return tokens / float(engine.answer("bare", [QUESTION], tokens)["seconds"])


if __name__ == "__main__":
    main()
