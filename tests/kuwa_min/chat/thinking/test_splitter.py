"""Thoughts and answers are told apart however the text is cut, and nothing of either is lost."""

from __future__ import annotations

import time

import pytest

from kuwa_min.chat.thinking.formats import BARE, FORMATS, Format
from kuwa_min.chat.thinking.splitter import ThoughtSplitter

from .samples import ANSWER, SAMPLES, THOUGHT, Sample, joined, split

TAG = FORMATS[0]
Parts = list[tuple[str, str]]


def parts_of(
    text: str, prompt_end: str = "", *, size: int = 1, guess: Format | None = None
) -> Parts:
    """Split a text in pieces of `size` bytes; join adjacent parts of a kind."""
    splitter = ThoughtSplitter(prompt_end, guess=guess)
    found: Parts = []
    for kind, part in split(splitter, Sample(text).pieces(size)):
        if found and found[-1][0] == kind:
            part = found.pop()[1] + part
        found.append((kind, part))
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_formats_are_told_apart_wherever_they_are_cut(name: str) -> None:
    """At every byte, into two pieces and into many."""
    sample = SAMPLES[name]
    for size in range(1, len(sample.text.encode()) + 1):
        parts = split(ThoughtSplitter(sample.prompt_end), sample.pieces(size))
        assert joined(parts, "thought").strip() == THOUGHT.strip()
        assert joined(parts, "answer").strip() == ANSWER.strip()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_thought_that_is_not_closed_is_one(name: str) -> None:
    """But for one in plain words, which may be how an answer begins."""
    sample = SAMPLES[name]
    text = sample.text[: sample.text.index(THOUGHT) + 20]
    parts = split(ThoughtSplitter(sample.prompt_end), Sample(text).pieces(1))
    if name == "Granite 3.2":
        assert parts == [("answer", text)]
    else:
        assert joined(parts, "thought").strip() == THOUGHT[:20].strip()
        assert joined(parts, "answer") == ""


@pytest.mark.parametrize(
    "text",
    [
        "Use <think> and </think>.",
        "`<think>a</think>` is markup",
        "[THINKING] is no tag",
        "<thin air",
        "<",
        " \n<",
        "analysis of [1]",
        "<|channel|",
        "no answer </answer>",
        "  indented\n\n",
        "<b>bold</b> <think>a</think>",
        "# <thinking>\n</thinking>",
        "\n\n    code",
    ],
)
def test_ordinary_text_is_the_answer(text: str) -> None:
    """Unchanged, to the last space."""
    for size in (1, 2, 3, 100):
        assert parts_of(text, size=size) == [("answer", text)]


def test_text_waits_for_nothing_but_a_tag() -> None:
    """Each piece comes at once, and what may begin a tag with what shows that it does not."""
    splitter = ThoughtSplitter()
    came = [splitter.feed(one) for one in ("Wo", "rld <think", "> [THINK] </", "think>")]
    assert came == [
        [("answer", "Wo")],
        [("answer", "rld <think")],
        [("answer", "> [THINK] </")],
        [("answer", "think>")],
    ]
    splitter = ThoughtSplitter()
    assert [splitter.feed(one) for one in ("<", "th", "e")] == [[], [], [("answer", "<the")]]
    splitter = ThoughtSplitter("<think>\n")
    came = [splitter.feed(one) for one in ("a < b", " </", "b", "</thi", "nk", ">", "\n", "c", "<")]
    assert came[:3] == [[("thought", "a < b")], [("thought", " ")], [("thought", "</b")]]
    assert came[3:] == [[], [], [], [], [("answer", "c")], [("answer", "<")]]


@pytest.mark.parametrize(
    ("text", "prompt_end", "parts"),
    [
        ("<think>\n\n</think>\n\nHi", "", [("thought", "\n\n"), ("answer", "Hi")]),
        ("<think></think>Hi", "", [("answer", "Hi")]),
        ("Hi", "<think>\n\n</think>\n\n", [("answer", "Hi")]),
        ("\n\nHi", "<think>\n\n</think>\n\n", [("answer", "Hi")]),
        ("</think>Hi", "<think>\n\n</think>\n\n", [("answer", "Hi")]),  # once more
        ("<think>a</think>\n</think>\n\nHi", "", [("thought", "a"), ("answer", "Hi")]),
        ("<think>a</think> <think>b</think>Hi", "", [("thought", "ab"), ("answer", "Hi")]),
        ("<think>a", "", [("thought", "a")]),
        ("<think>a</thi", "", [("thought", "a</thi")]),
        ("<think>", "", []),
        ("<think>a</think>  ", "", [("thought", "a")]),
        ("<think>a</think><thi", "", [("thought", "a"), ("answer", "<thi")]),
        # nested, and a tag that the thought only mentions
        ("<think>a<think>b</think>c</think>Hi", "", [("thought", "abc"), ("answer", "Hi")]),
        ("<think>a <think> b</think>Hi", "", [("thought", "a  b"), ("answer", "Hi")]),
        (
            "<think>a `</think>` b </think>A `<think>`",
            "",
            [("thought", "a `</think>` b "), ("answer", "A `<think>`")],
        ),
        ('<think>"a"</think>"Hi"', "", [("thought", '"a"'), ("answer", '"Hi"')]),
        (
            "<think>\na <think> b\n</think>\n\nUse <think>x</think>.",
            "",
            [("thought", "\na  b\n"), ("answer", "Use <think>x</think>.")],
        ),
        (
            "<think>a <think> b</think>Use <think>x</think>.",
            "",
            [("thought", "a  b"), ("answer", "Use <think>x</think>.")],
        ),
        # answers within tags
        ("<think>a</think><answer>Hi", "", [("thought", "a"), ("answer", "Hi")]),
        ("<think>a</think><answer>Hi</ans", "", [("thought", "a"), ("answer", "Hi</ans")]),
        (
            "<think>a</think><answer>b</answer> c",
            "",
            [("thought", "a"), ("answer", "b</answer> c")],
        ),
        ("Here's my thought process: it is", "", [("answer", "Here's my thought process: it is")]),
    ],
)
def test_odd_thoughts(text: str, prompt_end: str, parts: Parts) -> None:
    """Empty, repeated, nested, without an end."""
    for size in (1, 2, 3, 5, 100):
        assert parts_of(text, prompt_end, size=size) == parts


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        (  # what it says before it calls a tool is for the person, what it tells the tool is not
            "<|channel|>commentary<|message|>I look.<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.x<|message|>{}<|call|>",
            "I look.",
            "{}",
        ),
        ("<|channel|>final<|message|>Hi", "Hi", ""),
        (
            "<|channel|>commentary<|message|>One.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Two.",
            "One.\n\nTwo.",
            "",
        ),
        ("<|channel|>analysis<|message|>Hm.<|return|>", "", "Hm."),
        ("<|channel|>analysis", "", ""),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Hi", "Hi", "Hm."),
        ("<|start|>lost its way" + " and on" * 50, "lost its way" + " and on" * 50, ""),
        ("Hi<|end|>", "Hi", ""),  # of Phi, which has no channels
        ("<|im_start|>Hi", "Hi", ""),
        ("Hi[THINK]hm[/THINK]Ho", "Hi\n\nHo", "hm"),
    ],
)
def test_special_tokens_count_anywhere(text: str, answer: str, thought: str) -> None:
    """They are no text of the model, so that they begin a message wherever they come."""
    pieces = Sample(text, has_special_tokens=True).pieces(3)
    parts = split(ThoughtSplitter(), pieces)
    assert (joined(parts, "answer").strip(), joined(parts, "thought")) == (answer, thought)
    tokens = [token for token in ("<|end|>", "<|im_start|>") if token in text and len(text) < 20]
    assert joined(parts, "markup") == "".join(tokens)  # others may be a part of stop words


def test_a_tag_around_the_answer_closes_at_a_special_token() -> None:
    """With which our engines' answers end."""
    for text, answer in (("Hi</answer>\n", "Hi"), ("Hi</ans", "Hi</ans"), ("Hi", "Hi")):
        for cut in range(len(text)):
            pieces = [("<think>a</think><answer>", False), (text[:cut], False), (text[cut:], False)]
            parts = split(ThoughtSplitter(), [*pieces, ("<|im_end|>", True)])
            assert joined(parts, "answer") == answer


def test_a_service_may_have_opened_the_thought() -> None:
    """That is only a guess: without a closing tag it was an answer."""
    assert parts_of("a\n</think>\nHi", guess=TAG) == [("thought", "a\n"), ("answer", "Hi")]
    assert parts_of("<think>a</think>Hi", guess=TAG) == [("thought", "a"), ("answer", "Hi")]
    for text in ("Hi, all.", "Use `<think>`:\n```\n<think>a</think>\n```\nor <think>a</think>."):
        assert parts_of(text, guess=TAG) == [("answer", text)]


def test_special_tokens_may_be_missing_around_words() -> None:
    """Where a service drops those of gpt-oss: no other answer waits for that."""
    text = "analysisMy analysis.assistantfinalHi"
    assert parts_of(text, guess=BARE) == [("thought", "My analysis."), ("answer", "Hi")]
    assert parts_of("analysisMy", guess=BARE) == [("thought", "My")]
    assert ThoughtSplitter(guess=BARE).feed("Hi") == [("answer", "Hi")]


@pytest.mark.parametrize(
    "tag", ["<think>", "</think>", '"<think>', "<think>\n</think>", "<|channel|>", " ", "<"]
)
def test_hostile_texts_take_linear_time(tag: str) -> None:
    """Many tags, as a history may hold."""
    started = time.process_time()
    for prompt_end in ("", "<think>"):
        split(ThoughtSplitter(prompt_end), [(tag * (50_000 // len(tag)), False)])
    assert time.process_time() - started < 2
