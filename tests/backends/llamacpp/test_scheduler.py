"""Chats that share the model of the llamacpp backend: each is answered as if it were alone.

The judge is llama-cpp-python's own generate(), one chat after the other.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from kuwa_min.errors import AnswerError
from tests.backends._local.constraints.late_masks import LateMasks
from tests.support.batched_chats import Answer, Chats, whole_or_sentence
from tests.support.local_chats import truncated
from tests.support.models import tiny_ggufs
from tests.support.models.tiny_ggufs import ARCHITECTURES, STATEFUL, Library
from tests.support.models.tiny_models import SPECIAL, pack_gguf

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("free_copies"),
    pytest.mark.filterwarnings("default"),  # the library's own
]
SLOTS = 4
LIMIT, TURNS = 600, 40  # tokens of a prompt, turns of a chat that is longer
BELL_TOKEN = len(SPECIAL) + ord("\a")  # a token that is in no question and no answer
MANY = 15_000  # tokens of an answer that goes on until it is cancelled
LONG = 16_384  # tokens of a context that has room for it
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)
SYSTEM = "You know everything about the sea and nothing about the land.\n" * 5 + "Amen."
QUESTIONS = (
    "Hello",
    "Tell me a story about a lighthouse, please. " * 3,
    "?",
    "海邊有什麼？",
    "one two three " * 20,
    "Hello",
    "a",
    "What is the difference between a boat and a ship?",
)
OVERFLOWED = (
    "[The model's numbers overflowed: --cache_type f32, or the model's file in another precision, "
    "may help.]"
)
FULL = (
    "<<<WARNING>>>The answer was cut off: the model's context of {} tokens is full.<<</WARNING>>>"
)
FAILED, NO_ROOM, NO_MEMORY = -3, 1, -2  # what llama_decode() returns

File = Callable[..., Path]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> File:
    """Give what makes the file of an architecture, once."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("ggufs")

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tiny_ggufs.write_gguf(root / f"{name}.gguf", name, context=LONG)
        return made[name]

    return make


@pytest.fixture(scope="module")
def library() -> Callable[[Path], Library]:
    """Give what the library answers with a file, which it computes once."""
    known: dict[Path, Library] = {}
    return lambda path: known.setdefault(path, Library(path))


@pytest.fixture
def chats(load: Any) -> Callable[..., Chats]:
    """Give what loads a file into an executor with slots."""

    def make(path: Path, *options: object, slots: int = SLOTS) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", slots, *EXACT, *options)
        return Chats(load(LlamacppExecutor, *given).executor)

    return make


def context_of(talk: Chats) -> Any:
    """Return the context of an executor."""
    return talk.executor.engine._scheduler._context


Look = Callable[[list[Any]], object]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Chats, Look], None]:
    """Return a function that registers a hook on the chunks of each decode()."""

    def register(talk: Chats, look: Look) -> None:
        context = context_of(talk)
        decode = context.decode
        monkeypatch.setattr(context, "decode", lambda chunks: (look(chunks), decode(chunks))[1])

    return register


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes llama_decode() fail for some batches."""

    def register(result: int, *, where: Callable[[list[int]], bool]) -> None:
        decode = llama_cpp.llama_decode

        def decode_or_fail(context: Any, batch: Any) -> int:
            tokens = batch.token[: batch.n_tokens]
            return result if where(tokens) else decode(context, batch)

        monkeypatch.setattr(llama_cpp, "llama_decode", decode_or_fail)

    return register


# -- one answer is the same in company


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_chats_that_come_one_by_one_are_answered_as_if_alone(
    name: str, chats: Any, file: File, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight of different lengths in four slots, each asked when the last one is being answered."""
    talk, alone = chats(file(name)), library(file(name))
    assert "one at a time" not in caplog.text
    answers = []
    with talk.held():
        for number, question in enumerate(QUESTIONS):
            answers.append(talk.ask(question, max_tokens=40 + 5 * number))
            answers[-1].more()
    for number, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True)):
        assert answer.whole() == alone.answer(question, max_tokens=40 + 5 * number), question


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_chat_does_not_wait_for_masks_of_another(
    name: str, chats: Any, file: File, library: Any
) -> None:
    """One that must match something goes on where it was, once it is known what may come."""
    talk, alone = chats(file(name)), library(file(name))
    held = talk.create(QUESTIONS[1], max_tokens=20)
    masks = LateMasks(held, talk.executor.model)
    try:
        masks.send(3)
        answer = talk.submit(held)
        answer.more()
        neighbour = talk.ask(QUESTIONS[0], max_tokens=40)
        assert neighbour.whole() == alone.answer(QUESTIONS[0], max_tokens=40)
        assert not held.finished
        masks.send(20)
        assert answer.whole() == alone.answer(QUESTIONS[1], max_tokens=20)
    finally:
        masks.close()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_chat_goes_on_while_others_leave(name: str, chats: Any, file: File, library: Any) -> None:
    """Cancelled ones show the beginning of their answers; second and third turns are right."""
    talk, alone = chats(file(name)), library(file(name))
    few = {"max_tokens": 20}
    with talk.held():
        stopped = [talk.ask(question, max_tokens=60) for question in QUESTIONS[:3]]
        first = talk.ask("one", **few)
        for number, answer in enumerate(stopped):
            first.more(3)
            answer.cancel()
            begun = answer.whole()
            assert begun and alone.answer(QUESTIONS[number], max_tokens=60).startswith(begun)
        said = ["one", first.whole()]
        neighbour = talk.ask("late", max_tokens=50)
        for word in ("two", "three"):
            said += [word, talk.ask(*said, word, **few).whole()]
            assert said[-1] == alone.answer(*said[:-1], **few)
    assert said[1] == alone.answer("one", **few)
    assert neighbour.whole() == alone.answer("late", max_tokens=50)


@pytest.mark.parametrize("bridge", [0, 8])
@pytest.mark.parametrize("seed", range(len(ARCHITECTURES)))
def test_whatever_happens_the_answers_are_the_same(
    seed: int, bridge: int, chats: Any, file: File, library: Any
) -> None:
    """Twenty chats that come, go on, are cancelled and have options of their own by chance."""
    rng = random.Random(seed)
    name = ARCHITECTURES[seed]
    talk, alone = chats(file(name), slots=rng.choice([1, 2, 3, 8])), library(file(name))
    context_of(talk).gap_fill = 0 if name in STATEFUL else bridge
    running: list[tuple[Answer, str, bool]] = []
    for _ in range(20):
        said, options = a_chat(rng, [text for _, text, _ in running])
        answer, stops = talk.ask(*said, **options), rng.random() < 0.25
        running.append((answer, alone.answer(*said, **options), stops))
        rng.choice(running)[0].more(rng.randrange(12))
        if stops:
            answer.cancel()
    for answer, expected, stops in running:
        whole = answer.whole()
        assert expected.startswith(whole) if stops else whole == expected


def a_chat(rng: random.Random, known: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return a chat, which may go on from earlier answers, and options."""
    letters = string.ascii_letters + " 你好\n"
    said = ["?" + "".join(rng.choices(letters, k=rng.choice([0, 9, 70, 300])))]
    if known and rng.random() < 0.5:
        said = [rng.choice(QUESTIONS), rng.choice(known), *said]
    options: dict[str, Any] = {"max_tokens": rng.randint(1, 40)}
    if rng.random() < 0.3:
        options["repeat_penalty"] = rng.choice([0.8, 1.3])
    if rng.random() < 0.3:
        options["frequency_penalty"] = rng.choice([-0.5, 0.7])
    if rng.random() < 0.3:
        options |= {"temperature": rng.choice([0.7, 1.5]), "seed": rng.randrange(1000)}
    return said, options


WISHES: tuple[dict[str, Any], ...] = (
    {},
    {"repeat_penalty": 1.5},
    {"presence_penalty": 2.0, "frequency_penalty": 2.0},
    {"temperature": 1.2, "seed": 1},
    {"temperature": 1.2, "seed": 2, "top_k": 3},
    {"temperature": 1.2, "seed": 1, "top_k": 0, "top_p": 0.5, "min_p": 0.0},
    {"temperature": 2.0, "seed": 3, "typical_p": 0.3},
    {"temperature": 1.0, "seed": 4, "mirostat_mode": 1, "mirostat_tau": 2.0},
    {"temperature": 1.0, "seed": 4, "mirostat_mode": 2, "mirostat_eta": 0.3},
)


def test_options_of_one_chat_are_not_those_of_its_neighbours(
    chats: Any, file: File, library: Any
) -> None:
    """Sampled, with penalties and greedy, in one batch, each as the library computes it."""
    talk, alone = chats(file("llama"), slots=len(WISHES)), library(file("llama"))
    for most in (1, 2, 40):
        asked = [{"max_tokens": most, **wish} for wish in WISHES]
        with talk.held():
            answers = [talk.ask("Hello", **options) for options in asked]
        expected = [alone.answer("Hello", **options) for options in asked]
        assert [answer.whole() for answer in answers] == expected
    assert len(set(expected)) == len(WISHES), "each option has an effect"


def test_without_a_seed_each_answer_is_another(chats: Any, file: File) -> None:
    """Though all are sampled in one batch."""
    talk = chats(file("llama"))
    with talk.held():
        answers = [talk.ask("Hello", temperature=1.5, max_tokens=24) for _ in range(4)]
    assert len({answer.whole() for answer in answers}) == 4


EXTREMES: dict[str, tuple[float, ...]] = {
    "temperature": (0, 1e-30, 100),
    "top_k": (0, 1, 2**31 - 1),
    "top_p": (0, 1e-30, 1),
    "min_p": (0, 1e-30, 1),
    "typical_p": (0, 1e-30, 1),
    "seed": (0, 2**32 - 1),
    "repeat_penalty": (0.01, 1, 1e38),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "mirostat_mode": (0, 1, 2),
    "mirostat_tau": (0, 1e-30, 1e38, 1e300),
    "mirostat_eta": (0, 1e-30, 1e38, 1e300),
}


def test_extreme_numbers_do_not_end_the_process(chats: Any, file: File, library: Any) -> None:
    """Whatever comes of them; a neighbour is answered as if it were alone."""
    rng, talk = random.Random(0), chats(file("llama"), slots=8)
    expected = library(file("llama")).answer("Hello", max_tokens=30)
    for _ in range(40):
        wishes = [
            {
                name: rng.choice(values)
                for name, values in EXTREMES.items()
                if name == "seed" or rng.random() < 0.6
            }
            for _ in range(7)
        ]
        with talk.held():
            answers = [talk.ask("Hello", max_tokens=8, **wish) for wish in wishes]
            neighbour = talk.ask("Hello", max_tokens=30)
        assert neighbour.whole() == expected
        for answer in answers:  # all tokens that are drawn may be such as are not shown
            assert whole_or_sentence(answer) or answer.request.completion_tokens


def test_stop_words_end_one_chat_and_no_other(chats: Any, file: File, library: Any) -> None:
    """Nothing of the word is shown."""
    alone = library(file("llama"))
    whole = [alone.answer(question, max_tokens=40) for question in QUESTIONS]
    words = [whole[1][9:12], whole[3][20:22], "never said"]
    talk = chats(file("llama"), "--stop", *words, "--max_tokens", 40)
    with talk.held():
        answers = [talk.ask(question) for question in QUESTIONS]
    cuts = [min((text.find(w) for w in words if w in text), default=40) for text in whole]
    expected = [text[:cut] for text, cut in zip(whole, cuts, strict=True)]
    assert [answer.whole() for answer in answers] == expected
    assert cuts[1] < 40
    assert 40 in cuts


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_long_prompt_joins_while_others_are_answered(
    name: str, chats: Any, file: File, library: Any, looking: Any
) -> None:
    """It is prefilled in chunks, and all answers are right."""
    talk, alone = chats(file(name)), library(file(name))
    long = "All work and no play. " * 60
    expected = [alone.answer(question, max_tokens=80) for question in ("Hi", long)]
    talk.fix_prefill(100)
    late = talk.create(long, max_tokens=80)
    sizes: list[list[int]] = []

    def look(chunks: list[Any]) -> None:
        sizes.append(sorted(len(chunk.tokens) for chunk in chunks))
        if len(sizes) == 5:
            talk.submit(late)

    looking(talk, look)
    first = talk.ask("Hi", max_tokens=80)
    assert [first.whole(), Answer(late).whole()] == expected
    assert [1, 100] in sizes, "beside a token of the other"


def test_prompts_that_come_together_are_prefilled_together(
    chats: Any, file: File, library: Any, looking: Any
) -> None:
    """Several in one decode(), beside the sequences that are decoding."""
    talk, alone = chats(file("llama"), slots=8), library(file("llama"))
    said = ("b", "x" * 1500, "four", "and a fifth", "six", "7")
    expected = [alone.answer(text, max_tokens=30) for text in ("first", *said)]
    talk.fix_prefill(256)
    sizes: list[list[int]] = []
    with talk.held():
        first = talk.ask("first", max_tokens=30)
        first.more()
        looking(talk, lambda chunks: sizes.append([len(chunk.tokens) for chunk in chunks]))
        others = [talk.ask(text, max_tokens=30) for text in said]
        others[0].more()
    assert [answer.whole() for answer in (first, *others)] == expected
    assert sorted(size > 1 for size in sizes[0]) == [False] + [True] * len(said)


def test_a_short_prompt_does_not_wait_for_the_prefill_of_a_long_one(
    chats: Any, file: File, library: Any, looking: Any
) -> None:
    """It is prefilled beside it, and answered before."""
    talk = chats(file("llama"), "--context_window", LONG, "--limit", LONG)
    alone, long = library(file("llama")), "All work and no play. " * 100
    talk.fix_prefill(16)
    short = talk.create("Hi", max_tokens=10)
    computed: list[int] = []

    def look(chunks: list[Any]) -> None:
        if not short.finished:
            computed.append(sum(len(chunk.tokens) for chunk in chunks))
        if len(computed) == 2:
            talk.submit(short)

    looking(talk, look)
    answer = talk.ask(long, max_tokens=10)
    assert Answer(short).whole() == alone.answer("Hi", max_tokens=10)
    assert answer.whole() == alone.answer(long, max_tokens=10)
    assert sum(computed) < len(long) / 2


def test_a_system_prompt_that_all_share_is_copied(chats: Any, file: File, library: Any) -> None:
    """Also from sequences that run, and requests that come together wait for its prefill."""
    talk, alone = chats(file("llama")), library(file("llama"))
    assert context_of(talk).copy_seconds is not None
    few = {"max_tokens": 24, "system": SYSTEM}
    for questions in (QUESTIONS, ("Hello",) * 6, ("Hello",)):
        with talk.held():
            answers = [talk.ask(question, **few) for question in questions]
        expected = [alone.answer(question, **few) for question in questions]
        assert [answer.whole() for answer in answers] == expected
        assert all(answer.request.cached_tokens >= len(SYSTEM) for answer in answers[1:])


def test_answers_end_where_the_context_ends(chats: Any, file: File, library: Any) -> None:
    """Each at its own length, with a side note; neighbours go on."""
    talk, alone = chats(file("llama"), "--context_window", 300), library(file("llama"))
    asked = ["a" * 10, "b" * 195, "c" * 50]
    with talk.held():
        answers = [talk.ask(question) for question in asked]
    for question, answer in zip(asked, answers, strict=True):
        room = 300 - len(answer.request.prompt_ids)
        expected = alone.answer(question, max_tokens=room)
        assert answer.whole() == expected + FULL.format(300)


# -- at once


def test_a_short_answer_does_not_wait_for_a_long_one(chats: Any, file: File, library: Any) -> None:
    """Three come and go while one is being answered."""
    talk = chats(file("llama"), "--context_window", LONG)
    alone = library(file("llama"))
    expected = [alone.answer(question, max_tokens=12) for question in QUESTIONS[1:4]]
    with talk.held():
        long = talk.ask("Hello", max_tokens=MANY)
        long.more()
        assert [talk.ask(one, max_tokens=12).whole() for one in QUESTIONS[1:4]] == expected
        assert not long.request.finished
        long.cancel()
    assert 0 < len(long.whole()) < MANY


def test_a_chat_waits_for_a_free_slot(chats: Any, file: File, library: Any) -> None:
    """It is silent while all are taken, and begins when one is cancelled."""
    talk = chats(file("llama"), "--context_window", LONG, slots=2)
    alone = library(file("llama"))
    with talk.held():
        first, second = (talk.ask(text, max_tokens=MANY) for text in ("one", "two"))
        second.more()
        third = talk.ask("three", max_tokens=20)
        first.more(30)
        second.more(30)
        assert not third.request.started
        first.cancel()
        assert third.whole() == alone.answer("three", max_tokens=20)
        assert not second.request.finished
        second.cancel()
    assert len(second.whole()) < MANY


def test_a_chat_that_is_cancelled_in_the_queue_costs_nothing(
    chats: Any, file: File, library: Any, looking: Any
) -> None:
    """It is never prefilled."""
    talk = chats(file("llama"), "--context_window", LONG, slots=1)
    expected = library(file("llama")).answer("Hi", max_tokens=30)
    sizes: list[int] = []
    with talk.held():
        first = talk.ask("Hello", max_tokens=MANY)
        first.more()
        looking(talk, lambda chunks: sizes.extend(len(chunk.tokens) for chunk in chunks))
        waiting = talk.ask("w" * 700)
        first.more(10)
        waiting.cancel()
        last = talk.ask("Hi", max_tokens=30)
        first.more(10)
        first.cancel()
    assert last.whole() == expected
    assert waiting.whole() == ""
    assert max(sizes) < 100


# -- busy slots with gaps between them


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in STATEFUL])
def test_gaps_between_busy_slots_are_filled_and_idle_slots_unchanged(
    name: str, chats: Any, file: File, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that saves a ubatch; their chats go on from what they hold."""
    talk, alone = chats(file(name), "--context_window", LONG, slots=5), library(file(name))
    context_of(talk).gap_fill = 5
    few = {"max_tokens": 20}
    # the idle ones end early: at least half of what a slot holds must be the prompt, to be reused
    lengths = (MANY, 20, 20, 20, MANY)
    sizes: list[int] = []
    decode = llama_cpp.llama_decode

    def look(context: Any, batch: Any) -> int:
        sizes.append(batch.n_tokens)
        return int(decode(context, batch))

    with talk.held():
        running = [talk.ask(f"chat {number}", max_tokens=n) for number, n in enumerate(lengths)]
        for number in (1, 2, 3):
            running[number].whole()
        monkeypatch.setattr(llama_cpp, "llama_decode", look)
        running[0].more(30)
        assert set(sizes) == {5}
        again = [talk.ask(f"chat {number}", **few) for number in (1, 2, 3)]
        for number, answer in zip((1, 2, 3), again, strict=True):
            assert answer.whole() == alone.answer(f"chat {number}", **few)
            assert answer.request.cached_tokens >= len(answer.request.prompt_ids) - 1
        for number in (0, 4):
            running[number].cancel()
            text = running[number].whole()
            assert text[:60] == alone.answer(f"chat {number}", max_tokens=60)[: len(text)]


# -- what was read is not read again


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_next_turn_prefills_only_what_is_new(
    name: str, chats: Any, file: File, library: Any
) -> None:
    """Of every chat that has a slot, though their turns alternate."""
    talk, alone = chats(file(name)), library(file(name))
    said = {topic: [topic * 40] for topic in ("sea ", "sky ", "sand")}
    for turn in range(4):
        with talk.held():
            answers = {topic: talk.ask(*turns, max_tokens=10) for topic, turns in said.items()}
        whole = {topic: answer.whole() for topic, answer in answers.items()}
        expected = {topic: alone.answer(*said[topic], max_tokens=10) for topic in said}
        assert whole == expected
        if turn:
            for topic, answer in answers.items():
                before = sum(map(len, said[topic][:-1]))
                assert answer.request.cached_tokens >= before, f"{topic}: the turns before"
        for topic in said:
            said[topic] += [whole[topic], "go on"]


def test_past_the_limit_a_turn_in_four_reads_its_prompt_anew(
    chats: Any, file: File, library: Any, looking: Any
) -> None:
    """The others prefill their question and no more; each is right."""
    talk = chats(file("llama"), "--limit", LIMIT, slots=1)
    alone = library(file("llama"))
    reads: list[int] = []
    looking(talk, lambda chunks: reads.extend(len(chunk.tokens) for chunk in chunks))
    said: list[str] = []
    prefills: list[int] = []
    for turn in range(TURNS):
        said.append(f"question {turn}")
        reads.clear()
        answer = talk.ask(*said, max_tokens=8)
        kept = truncated(talk.executor, said, answer.request.prompt_ids)
        said.append(answer.whole())
        assert said[-1] == alone.answer(*kept, max_tokens=8)
        prefills.append(sum(reads) - 7)  # the last token of an answer is not read
        assert len(answer.request.prompt_ids) == prefills[-1] + answer.request.cached_tokens
        assert len(answer.request.prompt_ids) <= LIMIT
    anew = [count for count in prefills if count > LIMIT / 3]
    assert 3 <= len(anew) <= TURNS / 4
    assert max(count for count in prefills if count not in anew) < LIMIT / 8


def test_what_was_cancelled_may_be_reused_too(chats: Any, file: File, library: Any) -> None:
    """Whatever is kept of an answer that was cut off, the next one is right."""
    talk = chats(file("llama"), "--context_window", LONG, slots=2)
    alone = library(file("llama"))
    question = "Which way to the harbour? " * 12
    for count in (0, 1, 2, 7):
        with talk.held():
            cut = talk.ask(question, max_tokens=MANY)
            cut.more(count)
            cut.cancel()
        begun = cut.whole()
        assert alone.answer(question, max_tokens=60).startswith(begun[:60])
        again = talk.ask(question, max_tokens=10)
        assert again.whole() == alone.answer(question, max_tokens=10)
        turns = (question, begun[:5] or "?", "Where?")
        assert talk.ask(*turns, max_tokens=10).whole() == alone.answer(*turns, max_tokens=10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_chat_is_cancelled_while_its_prompt_is_prefilled(
    name: str, chats: Any, file: File, library: Any, looking: Any
) -> None:
    """Its neighbour goes on; asked again it is answered rightly."""
    talk, alone = chats(file(name), slots=2), library(file(name))
    question, few = "Which way to the harbour? " * 50, {"max_tokens": 30}
    expected = alone.answer(question, **few)
    request = talk.create(question, **few)
    talk.fix_prefill(100)
    parts: list[int] = []

    def cancel_at_the_second_part(computed: list[Any]) -> None:
        long = [len(chunk.tokens) for chunk in computed if len(chunk.tokens) > 1]
        parts.extend(long)
        if len(parts) == 2:
            request.cancel()

    with talk.held():
        neighbour = talk.ask("Hello", max_tokens=120)
        neighbour.more()
        looking(talk, cancel_at_the_second_part)
        assert talk.submit(request).whole() == ""
        assert len(parts) == 2, "it was cancelled in the middle"
        assert talk.ask(question, **few).whole() == expected
    assert neighbour.whole() == alone.answer("Hello", max_tokens=120)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_decode_whose_requests_are_cancelled_is_aborted(
    name: str, chats: Any, file: File, library: Any, looking: Any
) -> None:
    """In the middle, and the slots are as before."""
    talk, alone = chats(file(name), slots=2), library(file(name))
    question = "Which way to the harbour? " * 30
    expected = alone.answer(question, max_tokens=20)
    begun = talk.ask(question[:200], max_tokens=1)
    begun.whole()
    request = talk.create(question, max_tokens=20)
    results: list[int] = []
    decode = llama_cpp.llama_decode

    def cancel_and_decode(context: Any, batch: Any) -> int:
        request.cancel()
        results.append(decode(context, batch))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", cancel_and_decode)
        assert talk.submit(request).whole() == ""
        talk.ask("wait for it", max_tokens=1).whole()
    assert results[0] == 2
    assert talk.ask(question, max_tokens=20).whole() == expected


@pytest.mark.parametrize("name", STATEFUL)
def test_a_slot_that_an_abort_emptied_is_known_to_be_empty(
    name: str, chats: Any, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a memory that cannot be shortened nothing is left, and so nothing is parked of it."""
    talk = chats(file(name), slots=1)
    request = talk.create("Hello " * 20, max_tokens=20)
    results: list[int] = []
    decode = llama_cpp.llama_decode

    def cancel_the_fourth(context: Any, batch: Any) -> int:
        if len(results) == 3:
            request.cancel()
        results.append(decode(context, batch))
        return results[-1]

    monkeypatch.setattr(llama_cpp, "llama_decode", cancel_the_fourth)
    talk.submit(request).whole()
    talk.ask("Other", max_tokens=1).whole()
    assert results[3] == 2
    assert not talk.executor.cache_settings.cache.facts()["entries"]


# -- one failure is one chat's


@pytest.mark.parametrize(
    ("result", "seen", "words"),
    [
        (NO_ROOM, AnswerError, "ran out of memory"),
        (NO_MEMORY, AnswerError, "ran out of memory"),
        (FAILED, RuntimeError, "returned -3"),
    ],
)
def test_a_prompt_that_fails_harms_no_neighbour(
    result: int,
    seen: type[Exception],
    words: str,
    chats: Any,
    file: File,
    library: Any,
    failing: Any,
) -> None:
    """Those before it, beside it and after it are answered as if it had never come."""
    talk, alone = chats(file("llama")), library(file("llama"))
    expected = [alone.answer(question, max_tokens=40) for question in QUESTIONS]
    failing(result, where=lambda tokens: BELL_TOKEN in tokens)
    with talk.held():
        answers = [talk.ask(question, max_tokens=40) for question in QUESTIONS[:2]]
        answers[0].more(3)
        bad = [talk.ask("\a"), talk.ask("x" * 400 + "\a")]
        answers += [talk.ask(question, max_tokens=40) for question in QUESTIONS[2:]]
    for one in bad:
        with pytest.raises(seen, match=words):
            one.whole()
    assert [answer.whole() for answer in answers] == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_failure_that_passes_is_not_noticed(
    name: str, chats: Any, file: File, library: Any, failing: Any
) -> None:
    """Sequences that cannot be batched are computed one by one."""
    talk, alone = chats(file(name)), library(file(name))
    expected = [alone.answer(question, max_tokens=60) for question in QUESTIONS[:4]]
    fails = iter([False] * 20 + [True] + [False] * 20 + [True])
    with talk.held():
        answers = [talk.ask(question, max_tokens=60) for question in QUESTIONS[:4]]
        answers[3].more(1)
        failing(NO_MEMORY, where=lambda tokens: len(tokens) > 1 and next(fails, False))
    assert [answer.whole() for answer in answers] == expected
    assert not list(fails)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "gemma2"])
def test_numbers_that_overflow_are_one_chats(
    name: str, slots: int, chats: Any, library: Any, file: File, tmp_path: Path
) -> None:
    """What is left of them in its slot does not change the next chat there."""
    weights = tiny_ggufs.Weights().of(name)
    weights["token_embd.weight"][BELL_TOKEN] = float("nan")
    fields = [*tiny_ggufs.HEADS_OF[name](LONG), *tiny_ggufs.vocabulary()]
    path = pack_gguf(tmp_path / "odd.gguf", fields, weights)
    talk, alone = chats(path, slots=slots), library(file(name))
    few = {"max_tokens": 60}
    with talk.held():
        neighbour = talk.ask("n" * 300, max_tokens=100)
        neighbour.more(slots - 1)
        for text in ("\a", "\a" + "x" * 500, "x\a"):
            assert whole_or_sentence(talk.ask(text, **few)) == OVERFLOWED
            answer = talk.ask(text, **few, temperature=1)
            assert whole_or_sentence(answer) == OVERFLOWED
        assert talk.ask("Hello", **few).whole() == alone.answer("Hello", **few)
    assert neighbour.whole() == alone.answer("n" * 300, max_tokens=100)


# -- a library that computes several chats in another way


def test_chats_that_would_disturb_each_other_are_computed_one_at_a_time(
    chats: Any,
    file: File,
    library: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check at the start finds it; the log and /status show it."""
    from backends.llamacpp.batching.context import LlamaContext

    decode = LlamaContext.decode

    def decode_wrongly(self: Any, parts: Any) -> Any:
        outcome = decode(self, parts)
        if len(parts) > 1:
            outcome.logits[...] = outcome.logits[::-1].copy()  # each gets its neighbour's
        return outcome

    monkeypatch.setattr(LlamaContext, "decode", decode_wrongly)
    talk, alone = chats(file("llama"), slots=3), library(file("llama"))
    assert "chats are computed one at a time: computed at once they are not" in caplog.text
    assert talk.executor.engine.description == "one at a time"
    answers = [talk.ask(question, max_tokens=24) for question in QUESTIONS]
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert answer.whole() == alone.answer(question, max_tokens=24)
