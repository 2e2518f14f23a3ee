"""Ask the questions about a backend, of one model after the other, and print the tables."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.servers import Engines, Makers, running
from harness import plan
from harness.contestants import HERE
from harness.plan import Plan
from harness.process import clean_environment, scratch
from harness.table import Table

ROUNDS = 7
MINUTES = 40.0
MODEL_SECONDS = 300.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Question:
    """What is asked, and of which engines."""

    ask: Callable[[Engines, Plan], Table]
    engines: Sequence[str]


@dataclass(frozen=True)
class Backend:
    """The questions about a backend, by name, what makes its engines, and what makes its models.

    The models' script gets a path and a model's name.
    """

    questions: Mapping[str, Question]
    makers: Callable[[Path, argparse.Namespace], Makers]
    model_script: str


class LateError(RuntimeError):
    """Say that everything together took too long."""


def ask(backend: Backend, options: argparse.Namespace) -> None:
    """Print the answers about a backend, and write them to a file if there is to be one."""
    write(answers(backend, options), options.json)


def write(found: object, file: Path | None) -> None:
    """Write tables as JSON, unless the file is None."""
    if file:
        file.write_text(json.dumps(found, indent=1, default=asdict) + "\n")


def answers(backend: Backend, options: argparse.Namespace) -> dict[str, dict[str, Table]]:
    """Ask the questions that were named, or all, of one model after the other.

    Returns the tables by the names of model and question.
    """
    os.environ.update({**ONE_THREAD, **OFFLINE})
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
    began = time.monotonic()
    found = {one.model: _asked(backend, options, one) for one in _plans(options)}
    tables = [table for answers in found.values() for table in answers.values()]
    verdicts = [row.met for table in tables for row in table.rows if row.met is not None]
    minutes = (time.monotonic() - began) / 60
    print(f"{sum(verdicts)} of {len(verdicts)} goals met, in {minutes:.1f} minutes")
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found


def _plans(options: argparse.Namespace) -> list[Plan]:
    if options.quick:
        return [plan.quick(model) for model in options.model or plan.SMALL[:1]]
    return [plan.full(model, options.rounds) for model in options.model or plan.SMALL]


def _asked(backend: Backend, options: argparse.Namespace, wanted: Plan) -> dict[str, Table]:
    """Make a model, load it everywhere, and print a table for each question."""
    questions = {name: backend.questions[name] for name in options.only or backend.questions}
    names = {name for question in questions.values() for name in question.engines}
    tables = {}
    with scratch() as place:
        model = _model(backend.model_script, place / wanted.model, wanted.model)
        with running(backend.makers(model, options), names) as engines:
            for name, question in questions.items():
                tables[name] = question.ask(engines, wanted)
                print(tables[name], end="\n\n", flush=True)
    return tables


def _model(script: str, path: Path, name: str) -> Path:
    """Make a model in a process of its own, so that its libraries are not loaded in this one."""
    command = [sys.executable, str(HERE), script, str(path), name]
    subprocess.run(
        command, env=clean_environment(), check=True, timeout=MODEL_SECONDS, capture_output=True
    )
    return path


def _late(*_: object) -> None:
    raise LateError("not done in time; --minutes gives more")


def make_parser(backend: Backend, description: str | None) -> argparse.ArgumentParser:
    """Return what reads the options that all backends have."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--quick", action="store_true", help="the tiny model, few rounds: a first impression")
    add("--only", choices=backend.questions, action="append", help="may be given repeatedly")
    add("--model", choices=plan.SMALL, action="append", help="default: both")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    add("--file", type=Path, metavar="PYZ", help="a built file; default: the sources")
    add("--minutes", type=float, default=MINUTES, help="for everything; default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the tables to a file, too")
    return parser
