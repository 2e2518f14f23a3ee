"""Make tiny models, and say what the library itself answers to load_scenario_8.py.

For test_load_8.py; runs with the libraries of a built file: python llama_library.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.load import load_scenario_8
from tests.support.models.tiny_ggufs import Library, write_gguf, written
from tests.support.models.tiny_models import TEMPLATE

SECRETLY = "{% if messages[-1].content == '" + load_scenario_8.TRICK + "' %}{code}{% endif %}"


def make_models(folder: Path) -> Path:
    """Make what can be loaded, and what cannot; return the former."""
    code = load_scenario_8.CODE
    templates = {
        load_scenario_8.MODEL: TEMPLATE,
        load_scenario_8.ALWAYS_EVIL: code + TEMPLATE,
        load_scenario_8.EVIL: SECRETLY.replace("{code}", code) + TEMPLATE,
    }
    for name, template in templates.items():
        write_gguf(folder / name, "llama", template=template, context=load_scenario_8.CONTEXT)
    model = folder / load_scenario_8.MODEL
    (folder / load_scenario_8.CUT).write_bytes(model.read_bytes()[:-1000])
    (folder / load_scenario_8.TEXT).write_text("This is no model.\n", encoding="ascii")
    (folder / load_scenario_8.TRANSFORMERS).mkdir()
    (folder / load_scenario_8.TRANSFORMERS / "config.json").write_text("{}", encoding="ascii")
    return model


def main(folder: Path) -> None:
    """Do all of it and print the answers as JSON."""
    library = Library(make_models(folder), context=load_scenario_8.CONTEXT)
    long, short = load_scenario_8.LENGTH, load_scenario_8.SHORT
    stayed = [library.answer(text, max_tokens=long) for text in load_scenario_8.STAY]
    second = (load_scenario_8.STAY[0], stayed[0], load_scenario_8.SECOND)
    first = library.answer(load_scenario_8.BOOK, max_tokens=short)
    book = (load_scenario_8.BOOK, first, load_scenario_8.SECOND)
    templated = f"[user] {load_scenario_8.STAY[0]}\n[assistant]"
    alone = [
        (text,) for text in (*load_scenario_8.STAY, load_scenario_8.ABORT, load_scenario_8.LEAVE)
    ]
    chats = [*alone, second, book[:1], book]
    read = [*(written(*chat) for chat in chats), templated]
    answers = {
        "stayed": stayed,
        "second": library.answer(*second, max_tokens=long),
        "book": [first, library.answer(*book, max_tokens=short)],
        "templated": library.go_on(templated, max_tokens=long),
        "good": library.answer(load_scenario_8.GOOD, max_tokens=short),
        "read": sum(len(library.tokens(text)) for text in read),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
