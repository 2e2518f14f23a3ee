"""Ask how the huggingface backend compares with its library and with `transformers serve`.

Models with random weights are made on the spot: tiny (1.5 million), which shows what a token costs
beside the computing, and small (33 million). The interpreter that runs this runs ours and the
library, so it needs torch and transformers; one compute thread each.
"""

import os
import sys
from functools import partial

from engines import abort, first_token, inquiry, token_rates, transformers_engines
from engines.inquiry import Backend, Question
from engines.servers import ALONE, LOOPS, OURS
from engines.token_rates import Goal
from engines.transformers_engines import BATCHING, SERVE

SAMPLING = {"do_sample": "true", "temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7}
FORWARD = {"tiny": Goal(0.75, 0.80), "small": Goal(0.97, 0.95)}
STATIC = {"tiny": 1.05, "small": 1.05}
PEERS = {  # a larger model's single stream is bound by its weights in every server
    SERVE: {"tiny": Goal(1.3, 4), "small": Goal(None, 4)},
    BATCHING: {"tiny": Goal(None, 1.3), "small": Goal(None, 1.3)},
}
BACKEND = Backend(
    questions={
        "forward": Question(
            partial(token_rates.forward, bare="bare forward loop", goals=FORWARD), (OURS, LOOPS)
        ),
        "static": Question(
            partial(token_rates.batch, kind="static", name="static generate()", goals=STATIC),
            (OURS, LOOPS),
        ),
        "serve": Question(partial(token_rates.peers, goals=PEERS), (OURS, SERVE, BATCHING)),
        "eighth": Question(partial(first_token.eighth, peer=SERVE), (OURS, ALONE, LOOPS, SERVE)),
        "sampled": Question(partial(token_rates.sampled, options=SAMPLING), (OURS,)),
        "abort": Question(abort.measure, (OURS,)),
        "turn": Question(first_token.next_turn, (OURS,)),
    },
    makers=transformers_engines.makers,
    model_script="engines.random_model",
)


def main() -> None:
    """Read the command line and ask."""
    parser = inquiry.make_parser(BACKEND, __doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add(
        "--serve_python",
        default=sys.executable,
        metavar="PYTHON",
        help="where transformers[serving] is installed; default: the interpreter that runs this",
    )
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    inquiry.ask(BACKEND, parser.parse_args())


if __name__ == "__main__":
    main()
