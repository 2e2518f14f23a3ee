"""Ask how many tokens a second come out, in one stream and in eight, beside what else can do it.

All in interleaved rounds after a warm-up round. Every prompt is new: no server has it cached.
Goals are of a model by its name; a model that is missing has none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from engines.servers import LOOPS, OURS, Engines
from harness.answer import Answer
from harness.chat import WrongAnswerError, close_all, read_together
from harness.plan import Plan
from harness.prompts import EQUAL, MIXED, prompt
from harness.rounds import interleaved
from harness.table import Row, Table, at_least, beside

LIMIT_SECONDS = 120.0
SAMPLED_SHARE = 0.95
LONG_ANSWER = 1500


class Goal(NamedTuple):
    """Ours compared with another, of one stream and of eight; None: nothing is promised."""

    single: float | None
    eight: float | None


NO_GOAL = Goal(None, None)


class Rate(NamedTuple):
    """Tokens a second: from the question to the end, and after every client has a first token."""

    whole: float
    decode: float


Contestants = dict[str, Callable[[], Rate]]


def forward(engines: Engines, plan: Plan, *, bare: str, goals: Mapping[str, Goal]) -> Table:
    """Compare end to end over HTTP with the bare loop: the same prompts' lengths and tokens."""
    rows = []
    for lengths, goal in zip((EQUAL[:1], EQUAL), goals[plan.model], strict=True):
        found = measured(
            {
                OURS: partial(over_http, engines[OURS], lengths, plan.tokens),
                bare: partial(by_library, engines[LOOPS], "bare", lengths, plan.tokens),
            },
            plan.rounds,
        )
        mine, other = found[OURS], found[bare]
        what = streams(lengths)
        rows.append(judged(f"{what}, with prefill", mine.whole, bare, other.whole, goal))
        rows.append(beside(f"{what}, decoding only", mine.decode, bare, other.decode))
    remark = f"{same_answers(engines, plan)} of {len(MIXED)} answers are the bare loop's own"
    return Table(title("end to end", plan), rows, [remark])


def decode(
    engines: Engines, plan: Plan, *, kind: str, name: str, goals: Mapping[str, Goal]
) -> Table:
    """Compare decoding alone, over HTTP, with one of the library's loops."""
    rows = []
    for lengths, goal in zip((EQUAL[:1], EQUAL), goals.get(plan.model, NO_GOAL), strict=True):
        found = measured(
            {
                OURS: partial(over_http, engines[OURS], lengths, plan.tokens),
                name: partial(by_library, engines[LOOPS], kind, lengths, plan.tokens),
            },
            plan.rounds,
        )
        mine, other = found[OURS], found[name]
        what = streams(lengths)
        rows.append(judged(f"{what}, decoding only", mine.decode, name, other.decode, goal))
        rows.append(beside(f"{what}, with prefill", mine.whole, name, other.whole))
    remarks = [f"{same_answers(engines, plan, kind)} of {len(MIXED)} answers are that loop's own"]
    return Table(title("decoding", plan), rows, [*remarks, engines[OURS].description()])


def batch(
    engines: Engines, plan: Plan, *, kind: str, name: str, goals: Mapping[str, float]
) -> Table:
    """Compare eight streams of different lengths with one batch of the library's."""
    found = measured(
        {
            OURS: partial(over_http, engines[OURS], MIXED, plan.tokens),
            name: partial(by_library, engines[LOOPS], kind, MIXED, plan.tokens),
        },
        plan.rounds,
    )
    mine, other = found[OURS].whole, found[name].whole
    row = judged(streams(MIXED), mine, name, other, goals.get(plan.model))
    return Table(title("different lengths", plan), [row])


def long_reply(
    engines: Engines, plan: Plan, *, kind: str, name: str, goals: Mapping[str, float]
) -> Table:
    """Compare one long answer with how the library streams it, and with its bare loop."""
    lengths, bare = MIXED[:1], "the bare loop"
    alone = partial(by_library, engines[LOOPS], lengths=lengths, tokens=LONG_ANSWER)
    found = measured(
        {
            OURS: partial(over_http, engines[OURS], lengths, LONG_ANSWER),
            name: partial(alone, kind),
            bare: partial(alone, "bare"),
        },
        plan.turns,
    )
    what, mine = streams(lengths), found[OURS].whole
    rows = [
        judged(what, mine, name, found[name].whole, goals.get(plan.model)),
        beside(what, mine, bare, found[bare].whole),
    ]
    long = replace(plan, tokens=LONG_ANSWER, rounds=plan.turns)
    return Table(title("a long reply", long), rows)


def peers(engines: Engines, plan: Plan, *, goals: Mapping[str, Mapping[str, Goal]]) -> Table:
    """Compare with other servers, each with its goals."""
    names = [name for name in goals if name in engines]
    if not names:
        missing = f"not measured: {next(iter(goals))} is not installed"
        return Table(title("against other servers", plan), [], [missing])
    rows: list[Row] = []
    for at, lengths in enumerate((MIXED[3:4], MIXED)):
        contestants: Contestants = {
            name: partial(over_http, engines[name], lengths, plan.tokens) for name in (OURS, *names)
        }
        found = {name: rate.whole for name, rate in measured(contestants, plan.rounds).items()}
        rows += [
            judged(streams(lengths), found[OURS], name, found[name], goals[name][plan.model][at])
            for name in names
        ]
    return Table(title("against other servers", plan), rows)


def sampled(engines: Engines, plan: Plan, *, options: Mapping[str, object]) -> Table:
    """Compare drawing tokens with taking the likeliest."""
    ask = partial(over_http, engines[OURS], MIXED, plan.tokens)
    found = measured({"sampled": partial(ask, **options), "greedy": ask}, plan.rounds)
    mine, greedy = found["sampled"].whole, found["greedy"].whole
    row = at_least(streams(MIXED), mine, "greedy", greedy, SAMPLED_SHARE)
    return Table(title("sampled", plan), [row])


def judged(what: str, ours: float, against: str, value: float, goal: float | None) -> Row:
    """Return the target ratio of ours to the other, or nothing."""
    if goal is None:
        return beside(what, ours, against, value)
    return at_least(what, ours, against, value, goal)


def measured(contestants: Contestants, count: int) -> dict[str, Rate]:
    """Return all medians, after one warm-up round."""
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
    if any(len(text) != tokens for text in found["texts"]):
        raise WrongAnswerError(f"not {tokens} tokens: {found['texts']!r}")
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


def same_answers(engines: Engines, plan: Plan, kind: str = "bare") -> int:
    """Count the answers that are, token for token, those of a loop to one prompt alone."""
    prompts = [prompt(length) for length in MIXED]
    mine = [answer.said() for answer in ask_together(engines[OURS], prompts, plan.tokens)]
    alone = [engines[LOOPS].answer(kind, [one], plan.tokens)["texts"][0] for one in prompts]
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
