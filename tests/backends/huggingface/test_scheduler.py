"""Chats that share the model of the huggingface backend: each is answered as if it were alone.

The judge is the library's own generate(), one chat after the other.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import OPTIONS
from kuwa_min.errors import AnswerError
from tests.backends._local.constraints.late_masks import LateMasks
from tests.support.batched_chats import Answer, whole_or_sentence
from tests.support.local_chats import truncated
from tests.support.models.tiny_architectures import ALONE, BATCHABLE, Library
from tests.support.models.tiny_models import SPECIAL

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
transformers = pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "free_copies"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
LIMIT, TURNS = 600, 40  # tokens of a prompt, turns of a chat that is longer
VOCABULARY = len(SPECIAL) + 256
BELL_TOKEN = len(SPECIAL) + ord("\a")  # a token that is in no question and no answer
MANY = 60_000  # tokens of an answer that goes on until it is cancelled
WIDE = {"max_position_embeddings": 2**16}  # where it has room
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
OVERFLOWED = "[The model's numbers overflowed: another --dtype may help.]"
# Each keeps keys, values or positions in another way.
KEPT = ("llama", "opt", "gptj", "deepseek_v3", "mistral", "gemma3_text", "gpt_oss")
FUZZED = ("qwen2", "llama", "gpt2", "gptj", "mixtral", "mistral", "gemma2", "gemma3_text")
FULL = (
    "<<<WARNING>>>The answer was cut off: the model's context of {} tokens is full.<<</WARNING>>>"
)

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def library() -> Callable[[Path], Library]:
    """Give what the library answers with a folder, which it computes once."""
    known: dict[Path, Library] = {}
    return lambda path: known.setdefault(path, Library(path))


Look = Callable[[Any], object]


@pytest.fixture
def looking() -> Iterator[Callable[[Look], None]]:
    """Return a function that registers a hook on input_ids [sequences, tokens] of all passes."""
    handles = []

    def register(look: Look) -> None:
        def see(module: Any, given: Any) -> None:
            if isinstance(module, torch.nn.Embedding) and module.num_embeddings == VOCABULARY:
                look(given[0])

        handles.append(torch.nn.modules.module.register_module_forward_pre_hook(see))

    yield register
    for handle in handles:
        handle.remove()


@pytest.fixture
def reads(looking: Any) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of each forward pass's input_ids."""
    shapes: list[tuple[int, ...]] = []
    looking(lambda tokens: shapes.append(tuple(tokens.shape)))
    return shapes


def amount(shapes: list[tuple[int, ...]]) -> int:
    """Return how many tokens were prefilled."""
    return sum(rows * columns for rows, columns in shapes)


# -- one answer is the same in company


@pytest.mark.parametrize("name", BATCHABLE)
def test_chats_that_come_one_by_one_are_answered_as_if_alone(
    name: str, chats: Any, folder: Folder, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight of different lengths in four slots, each asked when the last one is being answered."""
    talk, alone = chats(folder(name)), library(folder(name))
    assert "one at a time" not in caplog.text
    answers = []
    with talk.held():
        for number, question in enumerate(QUESTIONS):
            answers.append(talk.ask(question, max_new_tokens=20 + 5 * number))
            answers[-1].more()
    for number, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True)):
        assert answer.whole() == alone.answer(question, max_new_tokens=20 + 5 * number), question


@pytest.mark.parametrize("name", ("llama", "gemma3_text"))
def test_a_chat_does_not_wait_for_masks_of_another(
    name: str, chats: Any, folder: Folder, library: Any
) -> None:
    """One that must match something goes on where it was, once it is known what may come."""
    talk, alone = chats(folder(name)), library(folder(name))
    held = talk.create(QUESTIONS[1], max_new_tokens=20)
    masks = LateMasks(held, talk.executor.model)
    try:
        masks.send(3)
        answer = talk.submit(held)
        answer.more()
        neighbour = talk.ask(QUESTIONS[0], max_new_tokens=40)
        assert neighbour.whole() == alone.answer(QUESTIONS[0], max_new_tokens=40)
        assert not held.finished
        masks.send(20)
        assert answer.whole() == alone.answer(QUESTIONS[1], max_new_tokens=20)
    finally:
        masks.close()


@pytest.mark.parametrize("name", KEPT)
def test_a_chat_goes_on_while_others_leave(
    name: str, chats: Any, folder: Folder, library: Any
) -> None:
    """Cancelled ones show the beginning of their answers; second and third turns are right."""
    talk, alone = chats(folder(name)), library(folder(name))
    few = {"max_new_tokens": 20}
    with talk.held():
        stopped = [talk.ask(question, max_new_tokens=60) for question in QUESTIONS[:3]]
        first = talk.ask("one", **few)
        for number, answer in enumerate(stopped):
            first.more(3)
            answer.cancel()
            begun = answer.whole()
            assert begun and alone.answer(QUESTIONS[number], max_new_tokens=60).startswith(begun)
        said = ["one", first.whole()]
        neighbour = talk.ask("late", max_new_tokens=50)
        for word in ("two", "three"):
            said += [word, talk.ask(*said, word, **few).whole()]
            assert said[-1] == alone.answer(*said[:-1], **few)
    assert said[1] == alone.answer("one", **few)
    assert neighbour.whole() == alone.answer("late", max_new_tokens=50)


@pytest.mark.parametrize("seed", range(len(FUZZED)))
def test_whatever_happens_the_answers_are_the_same(
    seed: int, chats: Any, folder: Folder, library: Any
) -> None:
    """Twenty chats that come, go on, are cancelled and have options of their own by chance."""
    rng = random.Random(seed)
    path = folder(FUZZED[seed])
    talk, alone = chats(path, slots=rng.choice([1, 2, 3, 8])), library(path)
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
    options: dict[str, Any] = {"max_new_tokens": rng.randint(1, 40)}
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.8, 1.3])
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = rng.choice([1, 2, 3])
    return said, options


def test_options_of_one_chat_are_not_those_of_its_neighbours(
    chats: Any, folder: Folder, library: Any
) -> None:
    """Penalties, repetitions and lengths, all in one batch."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    wishes = (
        {},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3},
    )
    for most in (1, 2, 40):
        asked = [{"max_new_tokens": most, **wish} for wish in wishes]
        with talk.held():
            answers = [talk.ask("Hello", **options) for options in asked]
        expected = [alone.answer("Hello", **options) for options in asked]
        assert [answer.whole() for answer in answers] == expected
    assert len(set(expected)) == len(wishes), "each option has an effect"


def test_answers_end_by_themselves_at_different_times(
    chats: Any, folder: Folder, library: Any
) -> None:
    """At an EOS token, which is not shown; the others go on."""
    path = folder("llama", ends="aeiou +")
    talk, alone = chats(path), library(path)
    with talk.held():
        answers = [talk.ask(question, max_new_tokens=80) for question in QUESTIONS]
    expected = [alone.answer(question, max_new_tokens=80) for question in QUESTIONS]
    assert [answer.whole() for answer in answers] == expected
    assert len(set(map(len, expected))) > 3, "their lengths differ"


def test_an_answer_has_min_new_tokens(chats: Any, folder: Folder, library: Any) -> None:
    """No EOS token before that, beside neighbours that may end."""
    path = folder("llama", ends="aeiou +")
    talk, alone = chats(path), library(path)
    asked = [{"max_new_tokens": 60, **least} for least in ({}, {"min_new_tokens": 30}, {})]
    with talk.held():
        answers = [talk.ask("Hello", **options) for options in asked]
    expected = [alone.answer("Hello", **options) for options in asked]
    assert [answer.whole() for answer in answers] == expected
    assert len(expected[0]) < 30 <= len(expected[1])


def test_stop_words_end_one_chat_and_no_other(chats: Any, folder: Folder, library: Any) -> None:
    """Nothing of the word is shown."""
    alone = library(folder("llama"))
    whole = [alone.answer(question, max_new_tokens=40) for question in QUESTIONS]
    words = [whole[1][9:12], whole[3][20:22], "never said"]
    talk = chats(folder("llama"), "--stop", *words, "--max_new_tokens", 40)
    with talk.held():
        answers = [talk.ask(question) for question in QUESTIONS]
    cuts = [min((text.find(w) for w in words if w in text), default=40) for text in whole]
    expected = [text[:cut] for text, cut in zip(whole, cuts, strict=True)]
    assert [answer.whole() for answer in answers] == expected
    assert cuts[1] < 40
    assert 40 in cuts


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2", "gemma3_text"])
def test_a_long_prompt_joins_while_others_are_answered(
    name: str, chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """It is prefilled in chunks, and all answers are right."""
    talk, alone = chats(folder(name)), library(folder(name))
    long = "All work and no play. " * 32
    expected = [alone.answer(question, max_new_tokens=80) for question in ("Hi", long)]
    talk.fix_prefill(256)
    reads.clear()
    with talk.held():
        first = talk.ask("Hi", max_new_tokens=80)
        first.more(5)
        second = talk.ask(long, max_new_tokens=80)
    assert [first.whole(), second.whole()] == expected
    assert max(columns for _, columns in reads) == 256, "the prompt is not read at once"


def test_a_short_prompt_does_not_wait_for_the_prefill_of_a_long_one(
    chats: Any, folder: Folder, library: Any, looking: Any
) -> None:
    """It is prefilled beside it, and answered before; more that come then are packed."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    long = "All work and no play. " * 60
    talk.fix_prefill(64)
    short = [talk.create(text, max_new_tokens=5) for text in ("Hi", "Ho", "Ha")]
    computed: list[int] = []

    def look(tokens: Any) -> None:
        if not all(one.finished for one in short):
            computed.append(tokens.numel())
        if len(computed) in (2, 4):
            for one in short[:1] if len(computed) == 2 else short[1:]:
                talk.submit(one)

    looking(look)
    answer = talk.ask(long, max_new_tokens=5)
    assert answer.whole() == alone.answer(long, max_new_tokens=5)
    expected = [alone.answer(text, max_new_tokens=5) for text in ("Hi", "Ho", "Ha")]
    assert [Answer(one).whole() for one in short] == expected
    assert sum(computed) < len(long) * 3 / 4


def test_prompts_that_come_together_are_packed(
    chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """But for one that is too long, and for one of which a prefix is cached."""
    path = folder("qwen2")
    known = library(path).answer("Once", max_new_tokens=4)
    executor = chats(path, "--max_new_tokens", "30", slots=8)
    assert executor.ask("Once", max_new_tokens=4).whole() == known
    executor.fix_prefill(256)
    said = [["b"], ["x" * 1500], ["Once", known, "upon"], ["four"], ["and a fifth"], ["six"], ["7"]]
    with executor.held():
        first = executor.ask("first")
        first.more()
        reads.clear()
        others = [executor.ask(*words) for words in said]
        for answer in others:
            answer.more()
    for words, answer in zip([["first"], *said], [first, *others], strict=True):
        assert answer.whole() == library(path).answer(*words, max_new_tokens=30)
    packed = sum(len(others[at].request.prompt_ids) for at in (0, 3, 4, 5, 6))
    assert reads[0] == (1, packed)


def test_a_system_prompt_that_all_share(chats: Any, folder: Folder, library: Any) -> None:
    """And identical chats at once, and the same chat again."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    few = {"max_new_tokens": 24, "system": SYSTEM}
    for questions in (QUESTIONS, ("Hello",) * 6, ("Hello",)):
        with talk.held():
            answers = [talk.ask(question, **few) for question in questions]
        expected = [alone.answer(question, **few) for question in questions]
        assert [answer.whole() for answer in answers] == expected


@pytest.mark.parametrize(
    ("name", "positions"), [("llama", "max_position_embeddings"), ("gpt2", "n_positions")]
)
def test_answers_end_where_the_context_ends(
    name: str, positions: str, chats: Any, folder: Folder, library: Any
) -> None:
    """Each at its own length, with a side note; neighbours go on."""
    path = folder(name, **{positions: 160})
    talk, alone = chats(path), library(path)
    asked = ["a" * 10, "b" * 95, "c" * 50]
    with talk.held():
        answers = [talk.ask(question) for question in asked]
    for question, answer in zip(asked, answers, strict=True):
        room = 160 - len(answer.request.prompt_ids)
        expected = alone.answer(question, max_new_tokens=room)
        assert answer.whole() == expected + FULL.format(160)


# -- at once


def test_a_short_answer_does_not_wait_for_a_long_one(
    chats: Any, folder: Folder, library: Any
) -> None:
    """Three come and go while one is being answered."""
    talk, alone = chats(folder("llama", **WIDE)), library(folder("llama", **WIDE))
    expected = [alone.answer(question, max_new_tokens=12) for question in QUESTIONS[1:4]]
    with talk.held():
        long = talk.ask("Hello", max_new_tokens=MANY)
        long.more()
        assert [talk.ask(one, max_new_tokens=12).whole() for one in QUESTIONS[1:4]] == expected
        assert not long.request.finished
        long.cancel()
    assert 0 < len(long.whole()) < MANY


def test_a_chat_waits_for_a_free_slot(chats: Any, folder: Folder, library: Any) -> None:
    """It is silent while all are taken, and begins when one is cancelled."""
    talk, alone = chats(folder("llama", **WIDE), slots=2), library(folder("llama", **WIDE))
    with talk.held():
        first, second = (talk.ask(text, max_new_tokens=MANY) for text in ("one", "two"))
        second.more()
        third = talk.ask("three", max_new_tokens=20)
        first.more(30)
        second.more(30)
        assert not third.request.started
        first.cancel()
        assert third.whole() == alone.answer("three", max_new_tokens=20)
        assert not second.request.finished
        second.cancel()
    assert len(second.whole()) < MANY


def test_a_chat_that_is_cancelled_in_the_queue_costs_nothing(
    chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """It is never prefilled."""
    talk, alone = chats(folder("llama", **WIDE), slots=1), library(folder("llama", **WIDE))
    expected = alone.answer("Hi", max_new_tokens=30)
    with talk.held():
        first = talk.ask("Hello", max_new_tokens=MANY)
        first.more()
        reads.clear()
        waiting = talk.ask("w" * 700)
        first.more(10)
        waiting.cancel()
        last = talk.ask("Hi", max_new_tokens=30)
        first.more(10)
        first.cancel()
    assert last.whole() == expected
    assert waiting.whole() == ""
    assert max(columns for _, columns in reads) < 100


# -- what was read is not read again


def test_the_next_turn_prefills_only_what_is_new(
    chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """Of every chat that has a slot, though their turns alternate."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    said = {topic: [topic * 40] for topic in ("sea ", "sky ", "sand")}
    lengths = []
    for _ in range(4):
        with talk.held():
            answers = {topic: talk.ask(*turns, max_new_tokens=10) for topic, turns in said.items()}
        whole = {topic: answer.whole() for topic, answer in answers.items()}
        expected = {topic: alone.answer(*said[topic], max_new_tokens=10) for topic in said}
        assert whole == expected
        for topic in said:
            said[topic] += [whole[topic], "go on"]
    for _ in range(2):
        reads.clear()
        with talk.held():
            answers = {topic: talk.ask(*turns, max_new_tokens=10) for topic, turns in said.items()}
        for answer in answers.values():
            answer.whole()
        lengths.append(amount(reads))
    prompts = sum(len(answer.request.prompt_ids) for answer in answers.values())
    assert lengths[0] < prompts / 3, "the turns before are known"
    assert lengths[1] < prompts / 3, "all is known when it is asked again"


def test_past_the_limit_a_turn_in_four_reads_its_prompt_anew(
    chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """The others prefill their question and no more; each is right."""
    talk = chats(folder("llama"), "--limit", LIMIT, slots=1)
    alone = library(folder("llama"))
    said: list[str] = []
    prefills: list[int] = []
    for turn in range(TURNS):
        said.append(f"question {turn}")
        reads.clear()
        answer = talk.ask(*said, max_new_tokens=8)
        kept = truncated(talk.executor, said, answer.request.prompt_ids)
        said.append(answer.whole())
        prefills.append(amount(reads) - 7)  # the last token of an answer is not read
        assert said[-1] == alone.answer(*kept, max_new_tokens=8)
        assert len(answer.request.prompt_ids) == prefills[-1] + answer.request.cached_tokens
        assert len(answer.request.prompt_ids) <= LIMIT
    anew = [count for count in prefills if count > LIMIT / 3]
    assert 3 <= len(anew) <= TURNS / 4
    assert max(count for count in prefills if count not in anew) < LIMIT / 8


def test_what_was_cancelled_may_be_reused_too(
    chats: Any, folder: Folder, library: Any, reads: list[tuple[int, ...]]
) -> None:
    """Whatever is kept of an answer that was cut off, the next one is right."""
    talk, alone = chats(folder("llama", **WIDE), slots=2), library(folder("llama", **WIDE))
    question = "Which way to the harbour? " * 12
    for count in (0, 1, 2, 7):
        with talk.held():
            cut = talk.ask(question, max_new_tokens=MANY)
            cut.more(count)
            cut.cancel()
        begun = cut.whole()
        assert alone.answer(question, max_new_tokens=60).startswith(begun[:60])
        again = talk.ask(question, max_new_tokens=10)
        assert again.whole() == alone.answer(question, max_new_tokens=10)
        turns = (question, begun[:5] or "?", "Where?")
        assert talk.ask(*turns, max_new_tokens=10).whole() == alone.answer(
            *turns, max_new_tokens=10
        )


def test_a_chat_is_cancelled_while_its_prompt_is_prefilled(
    chats: Any, folder: Folder, library: Any, looking: Any
) -> None:
    """Early or late; its neighbour goes on, and asked again it is answered rightly."""
    talk, alone = chats(folder("llama"), slots=2), library(folder("llama"))
    question, few = "Which way to the harbour? " * 50, {"max_new_tokens": 30}
    expected = alone.answer(question, **few)
    request = talk.create(question, **few)
    talk.fix_prefill(100)
    parts: list[int] = []

    def cancel_at_the_second_part(tokens: Any) -> None:
        if tokens.shape[1] > 1:
            parts.append(tokens.shape[1])
            if len(parts) == 2:
                request.cancel()

    with talk.held():
        neighbour = talk.ask("Hello", max_new_tokens=120)
        neighbour.more()
        looking(cancel_at_the_second_part)
        assert talk.submit(request).whole() == ""
        assert len(parts) == 2, "it was cancelled in the middle"
        assert talk.ask(question, **few).whole() == expected
    assert neighbour.whole() == alone.answer("Hello", max_new_tokens=120)


# -- one failure is one chat's


@pytest.mark.parametrize(
    ("error", "seen", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), AnswerError, "ran out of memory"),
        (MemoryError(), AnswerError, "ran out of memory"),
        (RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
def test_a_prompt_that_fails_harms_no_neighbour(
    error: Exception,
    seen: type[Exception],
    words: str,
    chats: Any,
    folder: Folder,
    library: Any,
    looking: Any,
) -> None:
    """Those before it, beside it and after it are answered as if it had never come."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    expected = [alone.answer(question, max_new_tokens=40) for question in QUESTIONS]

    def fail(tokens: Any) -> None:
        if (tokens == BELL_TOKEN).any():
            raise error

    looking(fail)
    with talk.held():
        answers = [talk.ask(question, max_new_tokens=40) for question in QUESTIONS[:2]]
        answers[0].more(3)
        bad = [talk.ask("\a"), talk.ask("x" * 400 + "\a")]
        answers += [talk.ask(question, max_new_tokens=40) for question in QUESTIONS[2:]]
    for one in bad:
        with pytest.raises(seen, match=words):
            one.whole()
    assert [answer.whole() for answer in answers] == expected


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("place", [torch.nn.Embedding, torch.nn.Linear])
def test_memory_that_runs_out_harms_as_few_as_possible(
    place: type[Any], failures: int, chats: Any, folder: Folder, library: Any
) -> None:
    """At a step's beginning or at its end: an answer that is lost ends with a sentence."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    expected = [alone.answer(question, max_new_tokens=60) for question in QUESTIONS[:4]]
    talk.ask("what is kept may be forgotten", max_new_tokens=5).whole()
    errors = [torch.OutOfMemoryError("CUDA out of memory") for _ in range(failures)]

    def fail(module: Any, given: Any) -> None:
        if isinstance(module, place) and VOCABULARY in module.weight.shape and errors:
            raise errors.pop()

    with talk.held():
        answers = [talk.ask(question, max_new_tokens=60) for question in QUESTIONS[:4]]
        answers[3].more(1)
        with torch.nn.modules.module.register_module_forward_pre_hook(fail):
            whole = [whole_or_sentence(answer) for answer in answers]
    lost = [at for at, text in enumerate(whole) if "ran out of memory" in text]
    assert not errors
    assert len(lost) <= failures - 1, "the first time, idle slots are freed"
    assert [text for at, text in enumerate(whole) if at not in lost] == [
        text for at, text in enumerate(expected) if at not in lost
    ]
    assert all(expected[at].startswith(answers[at].text) for at in lost)
    assert talk.ask(QUESTIONS[0], max_new_tokens=60).whole() == expected[0]


def is_second_part(tokens: Any) -> bool:
    """Tell whether this is a later chunk of the prompt that begins with a bell."""
    return tokens.shape[1] > 1 and not (tokens == BELL_TOKEN).any()


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_numbers_that_overflow_are_one_chats(
    ending: str, chats: Any, folder: Folder, library: Any, looking: Any
) -> None:
    """What is left of them in its slot does not change the next chat there."""
    talk, alone = chats(folder("llama", **WIDE), slots=2), library(folder("llama", **WIDE))
    with torch.no_grad():
        talk.executor.model.library_model.get_input_embeddings().weight[BELL_TOKEN] = float("nan")
    few = {"max_new_tokens": 60}
    request = talk.create("\a" + "x" * 1500, **few)
    with talk.held():
        neighbour = talk.ask("n" * 300, max_new_tokens=MANY)
        neighbour.more(1)
        if ending == "cancelled":
            looking(lambda tokens: request.cancel() if is_second_part(tokens) else None)
            assert whole_or_sentence(talk.submit(request)) in ("", OVERFLOWED)
        else:
            assert whole_or_sentence(talk.submit(request)) == OVERFLOWED
        assert talk.ask("Hello", **few).whole() == alone.answer("Hello", **few)
        neighbour.more(60)
        neighbour.cancel()
    assert neighbour.whole().startswith(alone.answer("n" * 300, **few))


# -- models whose chats cannot share a batch


@pytest.mark.parametrize("name", ALONE)
def test_other_models_answer_one_chat_after_the_other(
    name: str, chats: Any, folder: Folder, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As right, with a line in the log; one that is cancelled frees the model for the next."""
    alone = library(folder(name))
    with caplog.at_level("INFO"):
        talk = chats(folder(name))
    assert "one at a time" in caplog.text
    stopped = talk.ask("Hello", max_new_tokens=60)
    answers = [talk.ask(question, max_new_tokens=24) for question in QUESTIONS[1:4]]
    stopped.more(3)
    stopped.cancel()
    for question, answer in zip(QUESTIONS[1:4], answers, strict=True):
        assert answer.whole() == alone.answer(question, max_new_tokens=24), question
    assert alone.answer("Hello", max_new_tokens=60).startswith(stopped.whole())
    said = ("one", alone.answer("one", max_new_tokens=8), "two")
    assert talk.ask("one", max_new_tokens=8).whole() == said[1]
    assert talk.ask(*said, max_new_tokens=8).whole() == alone.answer(*said, max_new_tokens=8)


# -- drawn answers

DRAWN = {"do_sample": True, "temperature": 0.9, "top_k": 20, "max_new_tokens": 24}


def test_a_seed_decides_the_answer_beside_any_others(chats: Any, folder: Folder) -> None:
    """Alone, beside sampled and beside greedy ones; another seed gives another answer."""
    talk = chats(folder("llama", **WIDE))
    alone = [talk.ask("Hello", **DRAWN, seed=seed).whole() for seed in range(4)]
    assert len(set(alone)) == 4
    with talk.held():
        long = talk.ask("Hello", max_new_tokens=MANY)
        answers = [talk.ask("Hello", **DRAWN, seed=seed) for seed in range(4)]
        assert [answer.whole() for answer in answers] == alone
        long.cancel()
    assert len(long.whole()) < MANY


def test_without_a_seed_each_answer_is_another(chats: Any, folder: Folder) -> None:
    """Though they are batched, and the random states of Python and torch do not change."""
    talk = chats(folder("llama"))
    answers = []
    for _ in range(2):
        torch.manual_seed(0)
        random.seed(0)
        with talk.held():
            answers += [talk.ask("Hello", **DRAWN) for _ in range(4)]
    assert len({answer.whole() for answer in answers}) == 8


def test_sampled_neighbours_change_no_greedy_answer(
    chats: Any, folder: Folder, library: Any
) -> None:
    """Nor one whose options leave a single token."""
    talk, alone = chats(folder("llama")), library(folder("llama"))
    few = {"max_new_tokens": 24}
    with talk.held():
        drawn = [talk.ask("Hello", **DRAWN, seed=seed) for seed in range(2)]
        greedy = talk.ask("Hello", **few)
        one = talk.ask("Hello", **few, do_sample=True, top_k=1)
    assert [greedy.whole(), one.whole()] == [alone.answer("Hello", **few)] * 2
    assert greedy.text not in [answer.whole() for answer in drawn]


FEW, LOTS = VOCABULARY, 3000  # the latter are more than are looked at first
WISHES: tuple[tuple[int, dict[str, Any]], ...] = (
    (FEW, {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05}),
    (FEW, {"temperature": 1.3, "top_k": 5}),
    (FEW, {"top_k": 40, "min_p": 0.3}),
    (FEW, {"top_k": 0, "top_p": 0.9}),
    (FEW, {"top_k": 0, "temperature": 1.5, "top_p": 0.99, "min_p": 0.001}),
    (FEW, {"top_k": 0, "temperature": 2.0}),
    (FEW, {"top_k": 30, "typical_p": 0.6}),
    (FEW, {"top_k": 40, "repetition_penalty": 1.5, "no_repeat_ngram_size": 1}),
    (LOTS, {"temperature": 0.5, "top_k": 0, "top_p": 0.9}),
    (LOTS, {"temperature": 0.1, "top_k": 0, "top_p": 0.9}),
    (LOTS, {"top_k": 0, "min_p": 0.1}),
    (LOTS, {"temperature": 0.2, "top_k": 2000}),
)
DRAWS = 3000
GROUPS = 40  # of tokens of like probability, which are counted together


@pytest.mark.parametrize(("vocabulary", "wish"), WISHES, ids=str)
def test_tokens_are_sampled_as_the_library_samples_them(
    vocabulary: int, wish: dict[str, Any]
) -> None:
    """With its frequencies, within the noise, and never one that the library excludes."""
    from backends.huggingface.decoding.logits import Logits, sample
    from backends.huggingface.decoding.sampler import Sampler

    spread = 2.0 if vocabulary == FEW else 0.5
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(1)) * spread
    prompt = list(range(40))
    expected = library_probabilities(logits, prompt, wish)
    plain = logits.softmax(-1)[0]
    sampler = Sampler(
        {**dict.fromkeys(OPTION_NAMES), "do_sample": True, "seed": 3, **wish}, prompt, []
    )
    rows = Logits(logits.expand(100, -1))
    drawn = [sample(rows, [sampler] * 100) for _ in range(DRAWS // 100)]
    found = torch.tensor(drawn).flatten().bincount(minlength=vocabulary) / DRAWS
    assert not found[expected == 0].any()
    order = expected.argsort(descending=True)[: int((expected > 0).sum())]
    seen, wanted, unasked = (
        torch.stack([part.sum() for part in one[order].chunk(GROUPS)])
        for one in (found, expected, plain)
    )
    noise = float((wanted * (1 - wanted) * 2 / torch.pi / DRAWS).sqrt().sum() / 2)
    assert distance(seen, wanted) < 1.4 * noise
    never = float(plain[expected == 0].sum()) * DRAWS
    assert never > 30 or distance(unasked, wanted) > 2 * noise, "the options matter"


OPTION_NAMES = [option.name for option in OPTIONS]


def distance(one: Any, other: Any) -> float:
    """Return the total variation distance of two distributions."""
    return float((one - other).abs().sum() / 2)


def library_probabilities(logits: Any, prompt: list[int], wish: dict[str, Any]) -> Any:
    """Return the probability of each token with the library's processors: [vocabulary]."""
    kinds = (
        ("repetition_penalty", transformers.RepetitionPenaltyLogitsProcessor),
        ("no_repeat_ngram_size", transformers.NoRepeatNGramLogitsProcessor),
        ("temperature", transformers.TemperatureLogitsWarper),
        ("top_k", transformers.TopKLogitsWarper),
        ("top_p", transformers.TopPLogitsWarper),
        ("min_p", transformers.MinPLogitsWarper),
        ("typical_p", transformers.TypicalLogitsWarper),
    )
    scores = logits.clone()
    for name, kind in kinds:
        if wish.get(name):
            scores = kind(wish[name])(torch.tensor([prompt]), scores)
    return scores.softmax(-1)[0]
