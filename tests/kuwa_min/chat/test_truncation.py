"""A chat that is longer than the limit: what goes, and that it goes in blocks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from kuwa_min.chat.catalog import TOO_LONG
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.prompt import Prompt
from kuwa_min.chat.truncation import _block_starts, fit, recent
from kuwa_min.errors import AnswerError

from .messages import History, assistant, system, user

LIMIT = 400
TURNS = 40


def words(chat: History) -> int:
    """Count the words of a chat, which stand for tokens."""
    return sum(len(message["content"].split()) for message in chat)


def fitted(prompt: Prompt, limit: int) -> History:
    """Return what fits, where estimates are right."""
    return fit(prompt, length=words, estimate=lambda one: words([one]), limit=limit)


# -- what goes


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (99, ["s s", "e", "e", "1", "2", "3", "4 4", "5 5"]),
        (11, ["s s", "e", "e", "1", "2", "3", "4 4", "5 5"]),
        (10, ["s s", "e", "e", "3", "4 4", "5 5"]),
        (9, ["s s", "e", "e", "3", "4 4", "5 5"]),
        (8, ["s s", "e", "e", "5 5"]),
        (6, ["s s", "e", "e", "5 5"]),
        (5, ["s s", "5 5"]),
        (4, ["s s", "5 5"]),
    ],
)
def test_the_oldest_exchanges_go_until_it_fits(limit: int, kept: list[str]) -> None:
    """History first, the author's examples last; the system prompt and the question stay."""
    history = [user("1"), assistant("2"), user("3"), assistant("4 4"), user("5 5")]
    prompt = Prompt("s s", [user("e"), assistant("e")], history)
    chat = fitted(prompt, limit)
    assert [message["content"] for message in chat] == kept
    assert chat[0] == system("s s")


def test_a_question_that_is_too_long_alone_is_one_sentence() -> None:
    """Nothing of it can be left out."""
    with pytest.raises(AnswerError) as refused:
        fitted(Prompt("s", [], [user("1 2 3")]), 3)
    assert str(refused.value) == TOO_LONG


def test_without_a_system_prompt_there_is_no_such_message() -> None:
    """Many templates refuse an empty one."""
    assert fitted(Prompt("", [], [user("1")]), 9) == [user("1")]


# -- in blocks


def exchanges(rng: random.Random, count: int, longest: int) -> History:
    """Return a chat of `count` exchanges of up to `longest` words, and a question."""
    history = []
    for number in range(count):
        question = rng.randint(1, longest // 3)
        answer = rng.randint(1, longest - question)
        history += [user(f"q{number} " * question), assistant(f"a{number} " * answer)]
    return [*history, user("so?")]


def exchanges_of(count: int, size: int) -> History:
    """Return a chat of `count` exchanges of `size` words, and a question of one."""
    return [user("q"), assistant("a " * (size - 1))] * count + [user("so?")]


def turns(history: History, limit: int = LIMIT, estimate: float = 1) -> Iterator[History]:
    """Return the prompt of each turn of a chat with a system prompt and an example.

    estimate: what the estimates are times too high.
    """
    examples = [user("for example"), assistant("yes")]
    for end in range(1, len(history) + 1, 2):
        prompt = Prompt("be kind", examples, history[:end])
        yield fit(
            prompt,
            length=words,
            estimate=lambda one: round(words([one]) * estimate),
            limit=limit,
        )


@pytest.mark.parametrize("estimate", [1, 1.3, 0.8])
@pytest.mark.parametrize("seed", range(8))
def test_a_turn_in_four_reads_its_prompt_anew_and_the_others_continue_the_last_one(
    seed: int, estimate: float
) -> None:
    """Whatever the lengths of exchanges, if none is longer than an eighth of the limit."""
    room = LIMIT - words([system("be kind"), user("for example"), assistant("yes")])
    history = exchanges(random.Random(seed), TURNS, int(room / 8 / estimate))
    anew, last = 0, []
    for end, prompt in enumerate(turns(history, LIMIT, estimate)):
        assert words(prompt) <= LIMIT
        assert prompt[:3] == [system("be kind"), user("for example"), assistant("yes")]
        assert prompt[-1] == history[2 * end]
        is_whole = len(prompt) == 3 + 2 * end + 1
        assert is_whole or words(prompt) > LIMIT / 2 - 1
        anew += prompt[: len(last)] != last
        last = prompt
    assert 3 <= anew <= TURNS / 4


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7])
def test_long_exchanges_go_in_blocks_of_fewer(share: float) -> None:
    """Of half the limit at most, or of one exchange: a chat does not lose all for speed."""
    size = int(LIMIT * share)
    history = [user("q"), assistant("a " * (size - 1))] * TURNS
    prompts = list(turns([*history, user("so?")]))
    fewest = min(len(prompt) for prompt in prompts[TURNS // 2 :])
    assert (fewest - 4) // 2 * size >= LIMIT / 2 - 2 * size
    starts = [2 * at + 1 - (len(prompt) - 3) for at, prompt in enumerate(prompts)]
    assert starts == sorted(starts)
    per_block = max(1, min(4, int(LIMIT / 2 / size)))
    assert len(set(starts)) <= 1 + TURNS / per_block


def test_short_exchanges_go_a_quarter_of_the_limit_at_a_time() -> None:
    """However many of them that is."""
    history = [user("q"), assistant("a a a")] * 300
    lengths = [words(prompt) for prompt in turns([*history, user("so?")])]
    falls = [last - length for last, length in itertools.pairwise(lengths) if length < last]
    assert len(falls) == -(-(300 * 4 + 5 - LIMIT) // (LIMIT // 4))
    assert all(LIMIT // 4 - 3 * 4 <= fall <= LIMIT // 4 for fall in falls)


@pytest.mark.parametrize(
    ("sizes", "starts"),
    [
        ([6] * 10, [0, 4, 8, 9]),  # four are just a quarter of the room
        ([5] * 10, [0, 5, 6, 7, 8, 9]),  # four are less
        ([5, 6, 6, 6, 6, 6], [0, 5]),  # as the first four here
        ([9] * 10, [0, 4, 8, 9]),
        ([16] * 7, [0, 3, 6]),  # another one is just half the room
        ([17] * 7, [0, 2, 4, 6]),  # a third one is more than half
        ([20] * 5, [0, 2, 4]),
        ([60] * 3, [0, 1, 2]),
    ],
)
def test_a_block_has_a_quarter_of_the_room_and_four_exchanges_or_half_the_room(
    sizes: list[int], starts: list[int]
) -> None:
    """Of 96 words: 24 and 48; what follows the last block can go one by one."""
    history = [user(""), assistant("")] * len(sizes)
    halves = [half for size in sizes for half in (1, size - 1)]
    found = _block_starts(history[:-1], halves[:-1], 96)
    assert found == [2 * start for start in starts]


@pytest.mark.parametrize("fixed", [5, 95])
@pytest.mark.parametrize("slack", [0, 1])
def test_an_exact_estimate_finds_the_cut_in_two_calls(slack: int, fixed: int) -> None:
    """Of what is counted, which may be slow."""
    calls: list[int] = []

    def count(chat: History) -> int:
        calls.append(words(chat))
        return calls[-1]

    examples = [user("e"), assistant("e")]
    prompt = Prompt("be " * (fixed - 2), examples, exchanges_of(20, 10))
    limit = fixed + 12 * 10 + 1 + slack  # system prompt, examples, three blocks, the question
    chat = fit(prompt, length=count, estimate=lambda one: words([one]), limit=limit)
    assert words(chat) == limit - slack
    assert sorted(calls) == [limit - slack, limit - slack + 4 * 10]


def test_an_estimate_that_is_a_little_low_finds_the_cut_in_two_calls() -> None:
    """The next place is tried next."""
    calls: list[int] = []

    def count(chat: History) -> int:
        calls.append(words(chat) + 5)  # for what a template adds
        return calls[-1]

    prompt = Prompt("", [], exchanges_of(20, 10))
    fit(prompt, length=count, estimate=lambda one: words([one]), limit=12 * 10 + 1 + 3)
    assert calls == [12 * 10 + 1 + 5, 8 * 10 + 1 + 5]


@pytest.mark.parametrize("seed", range(8))
def test_the_beginning_depends_on_what_came_before_it_only(seed: int) -> None:
    """So edits of the same length leave it, and a shorter answer may bring a block back."""
    rng = random.Random(seed)
    history = exchanges(rng, TURNS, 60)
    begun = [2 * at + 1 - (len(prompt) - 3) for at, prompt in enumerate(turns(history))]
    begins = begun[-1]
    edited = list(history)
    for at in rng.sample(range(len(history) - 1), 5):
        edited[at] = {**edited[at], "content": edited[at]["content"].replace("q", "p")}
    assert list(turns(edited))[-1][3:] == edited[begins:]
    shorter = [*history[:-2], assistant("no"), history[-1]]
    assert list(turns(shorter))[-1][3:] in (shorter[begun[-2] :], shorter[begins:])


def test_one_long_message_takes_the_room_of_others_for_its_turn() -> None:
    """Of the examples, too, if need be; the next turn has them again."""
    history = exchanges(random.Random(1), 10, 30)
    long = [*history[:-1], user("long " * (LIMIT - 4))]
    assert list(turns(long))[-1] == [system("be kind"), long[-1]]
    after = [*long, assistant("yes"), user("so?")]
    assert list(turns(after))[-1][3:] == after[-1:]


# -- how long it takes


@pytest.mark.parametrize(("estimate", "most"), [(1, 2), (1.5, 10), (0.5, 10), (0, 12)])
def test_a_long_chat_is_counted_only_a_few_times(estimate: float, most: int) -> None:
    """Twice if estimates are right: rendering and counting a long chat takes its time."""
    history = [message for _ in range(500) for message in (user("a b"), assistant("c"))]
    counted: list[int] = []

    def length(chat: History) -> int:
        counted.append(words(chat))
        return words(chat)

    def estimated(message: Message) -> int:
        return round(estimate * words([message]))

    prompt = Prompt("", [], [*history, user("d")])
    chat = fit(prompt, length=length, estimate=estimated, limit=100)
    assert 50 < words(chat) <= 100
    assert chat[0]["role"] == "user"
    assert len(counted) <= most
    if estimate == 1:
        assert max(counted) < 2 * 100, "the whole chat is not counted"


def test_very_many_messages_take_no_time() -> None:
    """Though all are looked at."""
    history = [user("a"), assistant("b")] * 50_000
    chat = fitted(Prompt("", [], [*history, user("c")]), 9)
    assert 5 <= words(chat) <= 9


# -- before anything is counted


@pytest.mark.parametrize("exchange", [("q", "a"), ("q" * 30, "a" * 30), ("", " " * 500)])
def test_the_beginning_of_a_long_history_is_left_out_in_parts(exchange: tuple[str, str]) -> None:
    """Of which each is more than a prompt: 100 characters, 10 messages, or something of both."""
    question, answer = exchange
    history = [user(question), assistant(answer)] * 100
    last, changes = 0, 0
    for end in range(1, len(history), 2):
        kept = recent(history[:end], characters=100, messages=10)
        start = end - len(kept)
        assert kept == history[start:end]
        assert start == 0 or share(kept) >= 1
        assert share(kept) < 4
        changes, last = changes + (start != last), start
    assert 0 < changes <= share(history)


def share(history: History) -> float:
    """Return how many prompts a history fills."""
    return sum(len(one["content"].strip()) / 100 + 1 / 10 for one in history)


def test_messages_that_belong_together_stay_together() -> None:
    """The system prompt stays, and messages of a user in a row, which become one."""
    history = [system("s"), *[user("q" * 100)] * 9, assistant("a"), *[user("q" * 60)] * 3]
    assert recent(history, characters=100, messages=10) == history
    more = [*history, assistant("a"), *[user("q")] * 2]
    assert recent(more, characters=100, messages=10) == [system("s"), *more[11:]]
    more = [system("r"), *more]
    assert recent(more, characters=100, messages=10) == [*more[:2], *more[12:]]


def test_a_message_that_fits_into_no_prompt_is_left_out_at_once() -> None:
    """And not only once another part of the history follows it, which may never be so."""
    history = [user("q"), assistant("a" * 101), user("q"), assistant("a"), user("q")]
    assert recent(history, characters=100, messages=10) == history[2:]
    history[1] = assistant("a" * 100)
    assert recent(history, characters=100, messages=10) == history
