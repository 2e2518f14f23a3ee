"""Ask how the llamacpp backend compares with its library and with llama.cpp's own server.

Models with random weights are made on the spot: tiny (1.5 million), which shows what a token costs
beside the computing, and small (33 million). The interpreter that runs this runs all servers, so it
needs llama-cpp-python; one compute thread each, and everything in 32-bit floats.
"""

from functools import partial

from engines import abort, first_token, inquiry, llama_engines, token_rates
from engines.inquiry import Backend, Question
from engines.llama_engines import SERVER
from engines.servers import ALONE, LOOPS, OURS
from engines.token_rates import Goal

SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 7}
BARE, BATCH, STREAM = "bare decode loop", "bare 8-sequence batch", "create_completion()"
FORWARD = {"tiny": Goal(0.70, 0.85), "small": Goal(0.95, 0.95)}
PEERS = {SERVER: {"tiny": Goal(1.0, 1.0), "small": Goal(1.0, 1.0)}}
BACKEND = Backend(
    questions={
        "decode": Question(partial(token_rates.forward, bare=BARE, goals=FORWARD), (OURS, LOOPS)),
        "batch": Question(
            partial(token_rates.batch, kind="bare", name=BATCH, goals={"small": 0.95}),
            (OURS, LOOPS),
        ),
        "server": Question(partial(token_rates.peers, goals=PEERS), (OURS, SERVER)),
        "long": Question(
            partial(token_rates.long_reply, kind="stream", name=STREAM, goals={"tiny": 2.5}),
            (OURS, LOOPS),
        ),
        "eighth": Question(partial(first_token.eighth, peer=SERVER), (OURS, ALONE, LOOPS, SERVER)),
        "sampled": Question(partial(token_rates.sampled, options=SAMPLING), (OURS,)),
        "abort": Question(abort.measure, (OURS,)),
        "turn": Question(first_token.next_turn, (OURS,)),
    },
    makers=llama_engines.makers,
    model_script="engines.random_gguf",
)


if __name__ == "__main__":
    inquiry.ask(BACKEND, inquiry.make_parser(BACKEND, __doc__).parse_args())
