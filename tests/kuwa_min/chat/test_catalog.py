"""The sentences that users of a chat read, in two languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kuwa_min.chat import catalog, prompt
from kuwa_min.chat.catalog import CHINESE, ENGLISH, language_of, render, sentence_of
from kuwa_min.errors import UNEXPECTED, AnswerError

ROOT = Path(__file__).parents[1]
CATALOG = catalog.all_sentences()
# Words that a Chinese sentence may hold as they are: products, formats, options, units.
NAMES = re.compile(
    r"API|Google|JSON|MB|MiB|Modelfile|OpenAI|[Tt]oken|x|llm_|true|false|f32"
    r"|--allow_multimodal|--cache_type|--dtype"
)


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


def gaps(text: str) -> list[str]:
    """Return the gaps of a template, sorted."""
    return sorted(re.findall(r"\{\}", text))


@pytest.mark.parametrize("name", CATALOG)
def test_a_sentence_is_rendered_in_both_languages_with_its_values(name: str) -> None:
    """No English word is left in the Chinese but names, and each gap keeps its value."""
    sentence = CATALOG[name]
    english, chinese = sentence.render(ENGLISH), sentence.render(CHINESE)
    assert gaps(english) == gaps(chinese)
    assert english == sentence
    markers = [f"«{number}»" for number in range(len(gaps(english)))]
    filled = sentence.format(*markers)
    for text in (filled, filled.render(ENGLISH), filled.render(CHINESE)):
        assert set(re.findall("«[0-9]»", text)) == set(markers)
        assert "{" not in text
    words = re.findall(r"[A-Za-z_-]*[A-Za-z][A-Za-z0-9_-]*", filled.render(CHINESE))
    assert all(map(NAMES.fullmatch, words)), words
    says_something = re.search("[A-Za-z]", re.sub("«[0-9]»", "", english))
    assert bool(says_something) == bool(re.search("[\u4e00-\u9fff]", chinese))


def test_a_reason_is_rendered_in_the_language_of_the_whole() -> None:
    """However deep it lies, while names and numbers stay."""
    reason = catalog.OPTION_REASON.format("top_p", catalog.MUST_BE_AT_MOST.format(1))
    whole = catalog.BAD_OPTION.format(reason)
    assert whole == "[The option llm_top_p must be at most 1.]"
    assert render(whole, CHINESE) == "[無法使用選項 llm_top_p：不得大於 1。]"


def test_several_sentences_become_one() -> None:
    """As side notes need them."""
    both = catalog.join([catalog.LAST_FILE_ONLY, "as it is", catalog.CUT_SHORT])
    assert both == f"{catalog.LAST_FILE_ONLY} as it is {catalog.CUT_SHORT}"
    chinese = [one.render(CHINESE) for one in (catalog.LAST_FILE_ONLY, catalog.CUT_SHORT)]
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


def test_every_sentence_is_used() -> None:
    """Outside of the catalog."""
    sources = {*ROOT.glob("kuwa_min/**/*.py"), *ROOT.glob("backends/**/*.py")}
    texts = (one.read_text("utf-8") for one in sources - {Path(catalog.__file__)})
    words = {word for text in texts for word in re.findall(r"\b[A-Z_]+\b", text)}
    assert not CATALOG.keys() - words


def whole() -> list[str]:
    """Return every sentence that may be a whole answer, in both languages."""
    texts = [one.render(lang) for one in CATALOG.values() for lang in (ENGLISH, CHINESE)]
    return [UNEXPECTED, *(text for text in texts if text.startswith("["))]


@pytest.mark.parametrize("sentence", whole())
def test_no_model_reads_a_sentence_of_ours_as_its_own(sentence: str) -> None:
    """At the end of an answer it goes, with what stands in it; all of it is looked at."""
    said = sentence.replace("{}", "some thing")
    assert len(said) + 40 < prompt.LONGEST_SENTENCE
    kept = prompt.without_own_sentences([{"role": "assistant", "content": f"Paris\n{said}"}])
    assert kept == [{"role": "assistant", "content": "Paris\n"}]


def test_a_gap_does_not_swallow_lines() -> None:
    """What a model wrote in between stays."""
    text = f"{catalog.BAD_OPTION[:12]}\nParis.]"
    assert (
        prompt.without_own_sentences([{"role": "assistant", "content": text}])[0]["content"] == text
    )
