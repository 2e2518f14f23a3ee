"""Ask how many tokens a second come out, in one stream and in eight, beside what else can do it.

All in interleaved rounds after a warm-up round. Every prompt is new, so that nobody has it cached.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from answer import Answer
from chat import close_all, read_together
from engines import BATCHING, LOOPS, OURS, SERVE, Engines
from plan import Plan
from prompts import EQUAL, MIXED, prompt
from rounds import interleaved
from table import Row, Table, at_least, beside

BARE = "bare forward loop"
STATIC = "static generate()"
SAMPLING = {"do_sample": "true", "temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7}
LIMIT_SECONDS = 120.0
FORWARD_GOALS = {"tiny": (0.75, 0.80), "small": (0.97, 0.95)}  # of one stream and of eight
SERVE_GOAL, BATCHING_GOAL = 4, 1.3
TINY_SINGLE_GOAL = 1.3  # a larger model's single stream is bound by its weights for everybody


class Rate(NamedTuple):
    """Tokens a second: from the question to the end, and after everybody has a first token."""

    whole: float
    decode: float


Contestants = dict[str, Callable[[], Rate]]


def forward(engines: Engines, plan: Plan) -> Table:
    """Compare end to end over HTTP with the bare loop: the same prompts' lengths and tokens."""
    rows = []
    for lengths, goal in zip((EQUAL[:1], EQUAL), FORWARD_GOALS[plan.model], strict=True):
        found = measured(
            {
                OURS: partial(over_http, engines[OURS], lengths, plan.tokens),
                BARE: partial(by_library, engines[LOOPS], "bare", lengths, plan.tokens),
            },
            plan.rounds,
        )
        mine, bare = found[OURS], found[BARE]
        what = streams(lengths)
        rows.append(at_least(f"{what}, with prefill", mine.whole, BARE, bare.whole, goal))
        rows.append(beside(f"{what}, decoding only", mine.decode, BARE, bare.decode))
    remark = f"{same_answers(engines, plan)} of {len(MIXED)} answers are the bare loop's own"
    return Table(title("end to end", plan), rows, [remark])


def static(engines: Engines, plan: Plan) -> Table:
    """Compare eight streams of different lengths with one left-padded batch."""
    found = measured(
        {
            OURS: partial(over_http, engines[OURS], MIXED, plan.tokens),
            STATIC: partial(by_library, engines[LOOPS], "static", MIXED, plan.tokens),
        },
        plan.rounds,
    )
    row = at_least(streams(MIXED), found[OURS].whole, STATIC, found[STATIC].whole, 1.05)
    return Table(title("different lengths", plan), [row])


def serve(engines: Engines, plan: Plan) -> Table:
    """Compare with `transformers serve`, by default and with continuous batching."""
    if SERVE not in engines:
        return Table(title(SERVE, plan), [], ["not measured: it is not installed"])
    rows: list[Row] = []
    for lengths in (MIXED[3:4], MIXED):
        names = (OURS, SERVE, BATCHING)
        contestants: Contestants = {
            name: partial(over_http, engines[name], lengths, plan.tokens) for name in names
        }
        found = measured(contestants, plan.rounds)
        rows += serve_rows(streams(lengths), plan, {name: found[name].whole for name in names})
    return Table(title("against transformers serve", plan), rows)


def serve_rows(what: str, plan: Plan, found: dict[str, float]) -> list[Row]:
    """Judge a single stream of the tiny model, and eight streams of any."""
    goals: dict[str, float] = {}
    if what == streams(MIXED):
        goals = {SERVE: SERVE_GOAL, BATCHING: BATCHING_GOAL}
    elif plan.model == "tiny":
        goals = {SERVE: TINY_SINGLE_GOAL}
    return [
        at_least(what, found[OURS], name, found[name], goals[name])
        if name in goals
        else beside(what, found[OURS], name, found[name])
        for name in (SERVE, BATCHING)
    ]


def sampled(engines: Engines, plan: Plan) -> Table:
    """Compare drawing tokens with taking the likeliest."""
    ask = partial(over_http, engines[OURS], MIXED, plan.tokens)
    found = measured({"sampled": partial(ask, **SAMPLING), "greedy": ask}, plan.rounds)
    mine, greedy = found["sampled"].whole, found["greedy"].whole
    return Table(title("sampled", plan), [at_least(streams(MIXED), mine, "greedy", greedy, 0.95)])


def measured(contestants: Contestants, count: int) -> dict[str, Rate]:
    """Return everybody's medians, after one warm-up round."""
    interleaved(contestants, 1)
    found = interleaved(contestants, count)
    return {name: Rate(*map(median, zip(*many, strict=True))) for name, many in found.items()}


def over_http(engine: Any, lengths: Sequence[int], tokens: int, **options: object) -> Rate:
    """Ask once in every slot at the same time; from the first connect to the last byte."""
    answers = ask_together(engine, [prompt(length) for length in lengths], tokens, **options)
    ended = max(answer.arrivals[-1] for answer in answers)
    begun = max(answer.first_arrival() for answer in answers)
    left = sum(tokens - answer.tokens_by(begun) for answer in answers)
    whole = len(lengths) * tokens / (ended - answers[0].started)
    return Rate(whole, left / (ended - begun) if left else whole)


def by_library(engine: Any, kind: str, lengths: Sequence[int], tokens: int) -> Rate:
    """Let one of the library's loops answer as many prompts as one batch."""
    found = engine.answer(kind, [prompt(length) for length in lengths], tokens)
    count = len(lengths)
    return Rate(count * tokens / found["seconds"], count * (tokens - 1) / found["decode"])


def ask_together(
    engine: Any, prompts: Sequence[str], tokens: int, **options: object
) -> list[Answer]:
    """Ask all at once and read to the ends; raises WrongAnswerError if a token is missing."""
    answers = [engine.chat(slot, [text], tokens, **options) for slot, text in enumerate(prompts)]
    read_together(answers, LIMIT_SECONDS)
    close_all(answers)
    return [answer.check() for answer in answers]


def same_answers(engines: Engines, plan: Plan) -> int:
    """Count the answers that are, token for token, those of the bare loop to one prompt alone."""
    prompts = [prompt(length) for length in MIXED]
    mine = [answer.said() for answer in ask_together(engines[OURS], prompts, plan.tokens)]
    alone = [engines[LOOPS].answer("bare", [one], plan.tokens)["texts"][0] for one in prompts]
    return sum(one == other for one, other in zip(mine, alone, strict=True))


def streams(lengths: Sequence[int]) -> str:
    """Name as many streams."""
    return "1 stream" if len(lengths) == 1 else f"{len(lengths)} streams"


def title(what: str, plan: Plan) -> str:
    """Return a table's title."""
    return (
        f"{what}, {plan.model} model: tokens a second, "
        f"{plan.tokens} tokens each, median of {plan.rounds}"
    )
