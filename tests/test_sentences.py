"""What we say when something goes wrong, in two languages."""

from __future__ import annotations

import pytest

from kuwa_min import prompt, sentences
from kuwa_min.sentences import CHINESE, reads_chinese, translate


@pytest.mark.parametrize(
    ("field", "chinese"),
    [
        ("zh-TW", True),
        ("zh-TW,zh;q=0.9,en;q=0.8", True),
        ("zh-Hant-TW", True),
        ("zh_tw", True),
        ("zh_cn", True),
        ("ZH_TW;q=0.9, en_us;q=0.8", True),
        ("en_us", False),
        ("ja_jp", False),
        ("de", False),
        ("ZH", True),
        ("en;q=0.8, zh-TW", True),
        ("en, zh-TW", False),
        ("en-US,en;q=0.9,zh;q=0.8", False),
        ("zh-TW;q=0.1,en", False),
        ("*", False),
        ("", False),
        (None, False),
        ("zh;q=high", False),
        ("zh;q=1.1.1,en", False),
    ],
)
def test_the_first_language_of_a_browser_counts(field: str | None, chinese: bool) -> None:
    """By weight, then by place; what cannot be read is no wish."""
    assert reads_chinese(field) is chinese


@pytest.mark.parametrize("english", CHINESE)
def test_a_sentence_is_translated_with_what_stands_in_it(english: str) -> None:
    """Its gap keeps its content, whatever that is."""
    content = "a {b} (c) [d] 世界\\1"
    said, wanted = (text.replace("{}", content) for text in (english, CHINESE[english]))
    assert translate(said) == wanted
    assert any("\u4e00" <= letter <= "\u9fff" for letter in CHINESE[english])


def test_what_is_none_of_ours_stays_as_it_is() -> None:
    """Nothing is guessed."""
    assert translate("[Hello.]") == "[Hello.]"
    assert translate("") == ""


def whole() -> list[str]:
    """Return every sentence that may be a whole answer, in both languages."""
    known = [*sentences.ENGLISH_ONLY, *CHINESE, *CHINESE.values()]
    return [one for one in known if sentences._is_whole(one)]


@pytest.mark.parametrize("sentence", whole())
def test_no_model_reads_a_sentence_of_ours_as_its_own(sentence: str) -> None:
    """At the end of an answer it goes, with what stands in it; all of it is looked at."""
    said = sentence.replace("{}", "some thing")
    assert len(said) + 40 < prompt.LONGEST_SENTENCE
    kept = prompt.without_our_words([{"role": "assistant", "content": f"Paris\n{said}"}])
    assert kept == [{"role": "assistant", "content": "Paris\n"}]


def test_a_gap_does_not_swallow_lines() -> None:
    """What a model wrote in between stays."""
    text = f"{sentences.BAD_OPTION[:12]}\nParis.]"
    assert prompt.without_our_words([{"role": "assistant", "content": text}])[0]["content"] == text
