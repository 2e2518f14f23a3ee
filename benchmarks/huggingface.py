"""Ask how the huggingface backend compares with its library and with `transformers serve`.

Models with random weights are made on the spot: tiny (1.5 million), which shows what a token costs
beside the computing, and small (33 million). The interpreter that runs this runs ours and the
library, so it needs torch and transformers; one compute thread each.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import abort
import first_token
import plan
import token_rates
from contestants import HERE
from engines import ALONE, BATCHING, LOOPS, OURS, SERVE, Engines, Setting, running, serve_works
from plan import Plan
from process import clean_environment, scratch
from table import Table

ROUNDS = 7
MINUTES = 40.0
MODEL_SECONDS = 300.0
COMMON = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Question:
    """What is asked, and of which engines."""

    ask: Callable[[Engines, Plan], Table]
    engines: Sequence[str]


QUESTIONS = {
    "forward": Question(token_rates.forward, (OURS, LOOPS)),
    "static": Question(token_rates.static, (OURS, LOOPS)),
    "serve": Question(token_rates.serve, (OURS, SERVE, BATCHING)),
    "eighth": Question(first_token.eighth, (OURS, ALONE, SERVE)),
    "sampled": Question(token_rates.sampled, (OURS,)),
    "abort": Question(abort.measure, (OURS,)),
    "turn": Question(first_token.next_turn, (OURS,)),
}


class LateError(RuntimeError):
    """Say that everything together took too long."""


def main() -> None:
    """Ask the questions that were named, or all, of one model after the other."""
    options = _parser().parse_args()
    os.environ.update(COMMON)
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
    began = time.monotonic()
    found = {one.model: _asked(options, one) for one in _plans(options)}
    tables = [table for answers in found.values() for table in answers.values()]
    verdicts = [row.met for table in tables for row in table.rows if row.met is not None]
    minutes = (time.monotonic() - began) / 60
    print(f"{sum(verdicts)} of {len(verdicts)} goals met, in {minutes:.1f} minutes")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=asdict) + "\n")


def _plans(options: argparse.Namespace) -> list[Plan]:
    if options.quick:
        return [plan.quick(model) for model in options.model or ("tiny",)]
    return [plan.full(model, options.rounds) for model in options.model or ("tiny", "small")]


def _asked(options: argparse.Namespace, wanted: Plan) -> dict[str, Table]:
    """Make a model, load it everywhere, and print a table for each question."""
    questions = {name: QUESTIONS[name] for name in options.only or QUESTIONS}
    names = {name for question in questions.values() for name in question.engines}
    if not serve_works(options.serve_python):
        names -= {SERVE, BATCHING}
    tables = {}
    with scratch() as place:
        folder = _model(place / wanted.model, wanted.model)
        setting = Setting(folder, options.device, options.dtype, options.file, options.serve_python)
        with running(setting, names) as engines:
            for name, question in questions.items():
                tables[name] = question.ask(engines, wanted)
                print(tables[name], end="\n\n", flush=True)
    return tables


def _model(folder: Path, name: str) -> Path:
    """Make a model in a process of its own, so that torch is not loaded in this one."""
    command = [sys.executable, str(HERE / "random_model.py"), str(folder), name]
    subprocess.run(
        command, env=clean_environment(), check=True, timeout=MODEL_SECONDS, capture_output=True
    )
    return folder


def _late(*_: object) -> None:
    raise LateError("not done in time; --minutes gives more")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="the tiny model, few rounds: a first impression")
    add("--only", choices=QUESTIONS, action="append", help="a question; may be given repeatedly")
    add("--model", choices=plan.TOKENS, action="append", help="default: both")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add("--file", type=Path, metavar="PYZ", help="a built file; default: the sources")
    add(
        "--serve_python",
        default=sys.executable,
        metavar="PYTHON",
        help="where transformers[serving] is installed; default: the interpreter that runs this",
    )
    add("--minutes", type=float, default=MINUTES, help="for everything; default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the tables to a file, too")
    return parser


if __name__ == "__main__":
    main()
