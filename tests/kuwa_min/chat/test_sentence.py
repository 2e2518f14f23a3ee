"""Sentences in two languages."""

from __future__ import annotations

import pytest

from backends._cloud.sentences import LAST_FILE_ONLY
from kuwa_min.chat import catalog
from kuwa_min.chat.sentence import (
    CHINESE,
    ENGLISH,
    join_sentences,
    language_of,
    render,
    sentence_of,
)
from kuwa_min.errors import AnswerError
from kuwa_min.options.sentences import MUST_BE_AT_MOST, OPTION_REASON


@pytest.mark.parametrize(
    ("field", "language"),
    [
        ("zh-TW", CHINESE),
        ("zh-TW,zh;q=0.9,en;q=0.8", CHINESE),
        ("zh-Hant-TW", CHINESE),
        ("zh_tw", CHINESE),
        ("zh_cn", CHINESE),
        ("ZH_TW;q=0.9, en_us;q=0.8", CHINESE),
        ("en_us", ENGLISH),
        ("ja_jp", ENGLISH),
        ("de", ENGLISH),
        ("ZH", CHINESE),
        ("en;q=0.8, zh-TW", CHINESE),
        ("en, zh-TW", ENGLISH),
        ("en-US,en;q=0.9,zh;q=0.8", ENGLISH),
        ("zh-TW;q=0.1,en", ENGLISH),
        ("*", ENGLISH),
        ("", ENGLISH),
        (None, ENGLISH),
        ("zh;q=high", ENGLISH),
        ("zh;q=1.1.1,en", ENGLISH),
    ],
)
def test_the_first_language_of_a_browser_counts(field: str | None, language: str) -> None:
    """By weight, then by place; what cannot be parsed is no wish."""
    assert language_of(field) == language


def test_a_reason_is_rendered_in_the_language_of_the_whole() -> None:
    """However deep it lies, while names and numbers stay."""
    reason = OPTION_REASON.format("top_p", MUST_BE_AT_MOST.format(1))
    whole = catalog.BAD_OPTION.format(reason)
    assert whole == "[The option llm_top_p must be at most 1.]"
    assert render(whole, CHINESE) == "[無法使用選項 llm_top_p：不得大於 1。]"


def test_several_sentences_become_one() -> None:
    """As side notes need them."""
    both = join_sentences([LAST_FILE_ONLY, "as it is", catalog.CUT_SHORT])
    assert both == f"{LAST_FILE_ONLY} as it is {catalog.CUT_SHORT}"
    chinese = [one.render(CHINESE) for one in (LAST_FILE_ONLY, catalog.CUT_SHORT)]
    assert both.render(CHINESE) == " as it is ".join(chinese)


def test_filled_gaps_stay_as_they_are() -> None:
    """A value cannot open a gap, nor can another format fill one again."""
    filled = catalog.NO_MODEL.format("{} {0} {x}")
    assert filled.format("other") == filled
    assert "{} {0} {x}" in filled.format("other").render(CHINESE)


def test_other_text_stays_as_it_is() -> None:
    """Nothing is guessed: a custom executor's sentence is its own."""
    assert render("[No input message entered]", CHINESE) == "[No input message entered]"


def test_an_exception_gives_the_sentence_it_was_raised_with() -> None:
    """And its message if that is none."""
    sentence = catalog.NO_MODEL.format("m")
    assert sentence_of(AnswerError(sentence)) is sentence
    assert sentence_of(AnswerError("own words")) == "own words"
    assert sentence_of(AnswerError()) == ""
    assert sentence_of(KeyError("a", "b")) == "('a', 'b')"
