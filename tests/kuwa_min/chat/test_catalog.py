"""Every catalog: what the users of a chat read, in two languages."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from kuwa_min.chat import catalog, prompt
from kuwa_min.chat.sentence import CHINESE, ENGLISH, Sentence
from kuwa_min.errors import UNEXPECTED

ROOT = Path(prompt.__file__).parents[2]
SOURCES = [*ROOT.glob("kuwa_min/**/*.py"), *ROOT.glob("backends/**/*.py")]
CATALOGS = [one for one in SOURCES if one.name in ("catalog.py", "sentences.py")]
# Words that a Chinese sentence may hold as they are: products, formats, options, units.
NAMES = re.compile(
    r"API|Google|JSON|MB|MiB|Modelfile|OpenAI|[Tt]oken|x|llm_|true|false|f32"
    r"|LoRA|SCALE|none|--allow_multimodal|--cache_type|--dtype|--lora"
    r"|Enter|Ctrl-C|Ctrl-D|retry|system|TEXT|new|save|FILE|thoughts|help|Markdown|json"
    r"|https|data|image|base64|null|GET|POST|v1|chat|completions|tools|models|Authorization|Bearer|TOKEN|localhost|on|--api|--api_token_file"
)


def sentences_of(source: Path) -> dict[str, Sentence]:
    """Return the sentences that a catalog defines, by name."""
    module = importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts))
    return {name: one for name, one in vars(module).items() if isinstance(one, Sentence)}


ALL = {name: one for source in CATALOGS for name, one in sentences_of(source).items()}


def test_names_are_unique() -> None:
    """A name is a sentence's code."""
    assert len(ALL) == sum(len(sentences_of(source)) for source in CATALOGS)


def test_sentences_are_written_in_catalogs_only() -> None:
    """Elsewhere they are filled and joined; a frame is no text."""
    frames = {"sentence.py", "side_notes.py"}
    for source in SOURCES:
        text = source.read_text("utf-8")
        if source not in CATALOGS and source.name not in frames and "Sentence" in text:
            calls = ast.walk(ast.parse(text))
            names = [one.func for one in calls if isinstance(one, ast.Call)]
            assert not [one for one in names if isinstance(one, ast.Name) and one.id == "Sentence"]


def gaps(text: str) -> list[str]:
    """Return the gaps of a template, sorted."""
    return sorted(re.findall(r"\{\}", text))


def test_a_sentence_is_rendered_in_both_languages_with_its_values() -> None:
    """No English word is left in the Chinese but names, and each gap keeps its value."""
    assert ALL
    for name, sentence in ALL.items():
        english, chinese = sentence.render(ENGLISH), sentence.render(CHINESE)
        assert gaps(english) == gaps(chinese), name
        assert english == sentence, name
        markers = [f"«{number}»" for number in range(len(gaps(english)))]
        filled = sentence.format(*markers)
        for text in (filled, filled.render(ENGLISH), filled.render(CHINESE)):
            assert set(re.findall("«[0-9]»", text)) == set(markers), name
            assert "{" not in text, name
        words = re.findall(r"[A-Za-z_-]*[A-Za-z][A-Za-z0-9_-]*", filled.render(CHINESE))
        assert [word for word in words if not NAMES.fullmatch(word)] == [], name
    says_something = re.search("[A-Za-z]", re.sub("«[0-9]»", "", english))
    assert bool(says_something) == bool(re.search("[\u4e00-\u9fff]", chinese))


def test_every_sentence_is_used() -> None:
    """Outside of the catalogs."""
    texts = [one.read_text("utf-8") for one in SOURCES if one not in CATALOGS]
    words = {word for text in texts for word in re.findall(r"\b[A-Z_]+\b", text)}
    assert not ALL.keys() - words


def test_whole_answers_are_in_the_catalog_of_the_core() -> None:
    """Where prompts look for them."""
    whole = {name for name, one in ALL.items() if one.startswith("[")}
    assert whole <= sentences_of(Path(catalog.__file__)).keys()


def whole() -> list[str]:
    """Return every sentence that may be a whole answer, in both languages."""
    texts = [one.render(lang) for one in ALL.values() for lang in (ENGLISH, CHINESE)]
    return [UNEXPECTED, *(text for text in texts if text.startswith("["))]


def test_no_model_reads_a_sentence_of_ours_as_its_own() -> None:
    """At the end of an answer it goes, with what stands in it; all of it is looked at."""
    for sentence in whole():
        said = sentence.replace("{}", "some thing")
        assert len(said) + 40 < prompt.LONGEST_SENTENCE, said
        kept = prompt.without_our_sentences([{"role": "assistant", "content": f"Paris\n{said}"}])
        assert kept == [{"role": "assistant", "content": "Paris\n"}], said


def test_a_gap_does_not_swallow_lines() -> None:
    """What a model wrote in between stays."""
    text = f"{catalog.BAD_OPTION[:12]}\nParis.]"
    assert (
        prompt.without_our_sentences([{"role": "assistant", "content": text}])[0]["content"] == text
    )
