"""Time to first token: the eighth of eight clients, and a conversation's next turn."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from engines.servers import ALONE, LOOPS, OURS, SLOTS, Engines
from engines.token_rates import ask_together
from harness.plan import Plan
from harness.prompts import MIXED, prompt
from harness.rounds import interleaved, medians
from harness.table import Row, Table, beside

JOINING = "who joins seven others"
READING = "the bare loop's reading"
LONG_ANSWER = 1500  # tokens
SOONER = 30
REUSED_SHARE = 0.06
FIRST_TURNS = tuple(900 + 157 * slot for slot in range(SLOTS))  # prompt tokens, up to 2,000
TURN_TOKENS = 16
JUDGED = "small"  # reading a long prompt takes the tiny model hardly longer than HTTP takes
MILLISECONDS = 1000


def eighth(engines: Engines, plan: Plan, *, peer: str) -> Table:
    """Compare the eighth of eight clients with the same eight served one by one.

    The eighth comes while seven are being answered, or all eight come at once.
    """
    contestants: dict[str, Callable[[], float]] = {
        JOINING: partial(first_token_of_who_joins, engines[OURS]),
        OURS: partial(last_first_token, engines[OURS], plan.tokens),
        ALONE: partial(first_token_in_line, engines[ALONE], plan.tokens),
    }
    if peer in engines:
        contestants[peer] = partial(last_first_token, engines[peer], plan.tokens)
    contestants[READING] = partial(reading_alone, engines[LOOPS])
    interleaved(contestants, 1)
    found = medians(interleaved(contestants, plan.rounds))
    rows = [share("8th comes later", found[JOINING], ALONE, found[ALONE], 1 / SOONER)]
    rows += [
        beside("8 at once", found[OURS], name, found[name])
        for name in (ALONE, peer, READING)
        if name in found
    ]
    remark = f"the goal is {SOONER} times sooner; answers of {plan.tokens} tokens"
    return Table(title("first token", plan, plan.rounds), rows, [remark])


def first_token_of_who_joins(engine: Any) -> float:
    """Return the ms to the first token of a client that comes while seven are being answered."""
    *lengths, last = MIXED
    others = [
        engine.chat(slot, [prompt(length)], LONG_ANSWER) for slot, length in enumerate(lengths)
    ]
    for answer in others:
        while not answer.started_flowing() and answer.read():
            pass
    joined = engine.chat(len(others), [prompt(last)], 1).read_to_end().check()
    for slot, answer in enumerate(others):
        engine.abort(slot)
        answer.read_to_end()
    return MILLISECONDS * float(joined.first_piece_seconds())


def last_first_token(engine: Any, tokens: int) -> float:
    """Return the ms to the first token of the last of eight clients that ask at once."""
    answers = ask_together(engine, [prompt(length) for length in MIXED], tokens)
    last = max(answer.first_arrival() for answer in answers)
    return MILLISECONDS * (last - answers[0].started)


def reading_alone(library: Any) -> float:
    """Return the ms that the library's bare loop takes to read all eight prompts as one batch."""
    found = library.answer("bare", [prompt(length) for length in MIXED], 2)
    return MILLISECONDS * float(found["seconds"] - found["decode"])


def first_token_in_line(engine: Any, tokens: int) -> float:
    """Return the ms to the last one's first token if each waits for the end of the one before."""
    answers = [engine.chat(0, [prompt(length)], tokens).read_to_end().check() for length in MIXED]
    return MILLISECONDS * (answers[-1].first_arrival() - answers[0].started)


def next_turn(engines: Engines, plan: Plan) -> Table:
    """Compare the second turn with the first one, whose prompt is a little shorter."""
    found = [turns_in_all_slots(engines[OURS]) for _ in range(plan.turns)]
    slots = [
        [median(times) for times in zip(*slot, strict=True)] for slot in zip(*found, strict=True)
    ]
    ratios = [reused / cold for cold, reused in slots]
    worst = ratios.index(max(ratios))
    middle = [median(times) for times in zip(*slots, strict=True)]
    slowest = ("worst slot", slots[worst][1], "first turn", slots[worst][0])
    rows = [
        beside(f"median of {SLOTS} slots", middle[1], "first turn", middle[0]),
        share(*slowest, REUSED_SHARE) if plan.model == JUDGED else beside(*slowest),
    ]
    remark = f"first prompts of {FIRST_TURNS[0]} to {FIRST_TURNS[-1]:,} tokens"
    return Table(title("first token of the next turn", plan, plan.turns), rows, [remark])


def turns_in_all_slots(engine: Any) -> list[tuple[float, float]]:
    """Begin a conversation in every slot, then go on in each; return both ms of each slot."""
    said, cold, reused = [], [], []
    for slot, length in enumerate(FIRST_TURNS):
        question = prompt(length)
        answer = engine.chat(slot, [question], TURN_TOKENS).read_to_end().check()
        cold.append(MILLISECONDS * answer.first_piece_seconds())
        said.append([question, answer.said(), "And then?"])
    for slot, history in enumerate(said):
        answer = engine.chat(slot, history, TURN_TOKENS).read_to_end().check()
        reused.append(MILLISECONDS * answer.first_piece_seconds())
    return list(zip(cold, reused, strict=True))


def share(what: str, ours: float, against: str, value: float, limit: float) -> Row:
    """Promise ours to be at most a small share of the other."""
    ratio = ours / value
    return Row(what, ours, against, value, f"{ratio:.3f}", f"<= {limit:.3f} x", ratio <= limit)


def title(what: str, plan: Plan, count: int) -> str:
    """Return a table's title."""
    return f"{what}, {plan.model} model: ms from the connect, median of {count}"
