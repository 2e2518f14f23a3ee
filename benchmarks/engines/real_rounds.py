"""Measure one round of a server with a real model: rates, first tokens, what a start takes."""

from collections.abc import Callable, Sequence

from engines.real_chats import Engine, question, written
from engines.servers import SLOTS
from harness.answer import Answer
from harness.chat import close_all, read_together

SHORT = 20  # words of a question
SINGLE, EIGHT, TURN = 64, 32, 16  # tokens of an answer
LIMIT_SECONDS = 600.0
MILLISECONDS, MIB = 1000, 2**20

ONE, MANY = "1 stream", "8 streams"
COLD, LAST, TURN_2, TURN_3 = "long prompt", "last of 8", "next turn", "turn 3 after another chat"
READY, MEMORY = "ready", "memory"
PROCESSOR = ", processor"  # at the end of a name: ms of all threads for each token

Found = dict[str, float]  # what one round measured: tokens a second, or ms


def answering(engine: Engine, alone: Engine, words: int) -> Found:
    """Measure rates and first tokens; alone: the same server with one slot.

    words: of the long question.
    """
    single, _ = _streams(engine, 1, SINGLE, ONE)
    eight, answers = _streams(engine, SLOTS, EIGHT, MANY)
    last = max(answer.first_arrival() for answer in answers) - answers[0].started
    return {**single, **eight, LAST: MILLISECONDS * last, **_conversation(alone, words)}


def _streams(engine: Engine, count: int, tokens: int, name: str) -> tuple[Found, Sequence[Answer]]:
    """Ask new questions at once, to the ends of their answers."""
    before, used = written(engine), engine.cpu_seconds()
    answers = [engine.chat(slot, [question(SHORT)], tokens) for slot in range(count)]
    read_together(answers, LIMIT_SECONDS)
    seconds = max(answer.check().arrivals[-1] for answer in answers) - answers[0].started
    close_all(answers)
    used, come = engine.cpu_seconds() - used, written(engine) - before
    return {name: come / seconds, name + PROCESSOR: MILLISECONDS * used / come}, answers


def _conversation(engine: Engine, words: int) -> Found:
    """Talk for three turns, with another chat before the third, in the only slot."""
    said: list[str] = []
    found = {}
    for name, text in ((COLD, question(words)), (TURN_2, "And then?"), (TURN_3, "Go on.")):
        if name == TURN_3:
            engine.chat(0, [question(SHORT)], TURN).read_to_end().check()
        said.append(text)
        answer = engine.chat(0, said, TURN).read_to_end().check()
        found[name] = MILLISECONDS * answer.first_piece_seconds()
        said.append(answer.said())
    return found


def starting(make: Callable[[], Engine]) -> Found:
    """Start a server, and measure how long it takes to be ready, and what it weighs then."""
    engine = make()
    engine.start()
    try:
        ready = engine.wait_healthy()
        return {READY: ready, MEMORY: engine.rss_bytes() / MIB}
    finally:
        engine.stop()
