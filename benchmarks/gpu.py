"""Ask how far decoding on a graphics card is from what the card can do; under ten minutes.

`huggingface` is compared with a decode step that is replayed as a CUDA graph and nothing else,
`llamacpp` with the bare `llama_decode` loop on the same card. Models with random weights are made
on the spot. The interpreter that runs this runs everything, so it needs what both backends need.
`--device cpu --size tiny --quick` tries all but the card, in half a minute.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engines import inquiry, llama_engines, token_rates, transformers_engines
from engines.inquiry import Backend, Question
from engines.servers import LOOPS, OURS, Makers
from engines.token_rates import Goal
from harness import plan

DTYPES = {"cuda": "bfloat16", "cpu": "float32"}
SIZES = {"huggingface": "7b", "llamacpp": "1b"}  # of the models, unless told
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7}
ROUNDS = 5
MINUTES = 10.0


def _backend(
    goal: float, makers: Callable[..., Makers], script: str, *, kind: str, name: str
) -> Backend:
    goals = dict.fromkeys(plan.LARGE, Goal(goal, goal))
    decode = partial(token_rates.decode, kind=kind, name=name, goals=goals)
    sampled = partial(token_rates.sampled, options=SAMPLING)
    questions = {
        "decode": Question(decode, (OURS, LOOPS)),
        "sampled": Question(sampled, (OURS,)),
    }
    return Backend(questions, makers, script)


BACKENDS = {
    "huggingface": _backend(
        0.9,
        transformers_engines.makers,
        "engines.random_model",
        kind="graph",
        name="CUDA-graphed step",
    ),
    "llamacpp": _backend(
        0.95,
        llama_engines.makers_on_card,
        "engines.random_gguf",
        kind="bare",
        name="bare decode loop",
    ),
}


def main() -> None:
    """Ask about the backends that were named, or both."""
    options = _parser().parse_args()
    options.dtype, options.serve_python = DTYPES[options.device], sys.executable
    options.only, options.file = None, None
    found = {}
    for name in options.backend or BACKENDS:
        options.model = [options.size or SIZES[name]]
        found[name] = inquiry.answers(BACKENDS[name], options)
    inquiry.write(found, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--backend", choices=BACKENDS, action="append", help="default: both")
    add("--device", choices=DTYPES, default="cuda", help="default: %(default)s")
    add("--size", choices=plan.TOKENS, help="of the models; default: 7b, and 1b for llamacpp")
    add("--quick", action="store_true", help="one round of short answers")
    add("--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s")
    add("--minutes", type=float, default=MINUTES, help="for each backend; default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the tables to a file, too")
    return parser


if __name__ == "__main__":
    main()
