"""Make tiny models, and say what the library itself answers to eight_people.py.

For test_eight_people.py; runs with the libraries of a built file: python llama_library.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eight_people
from tiny_ggufs import Library, write_gguf, written
from tiny_models import TEMPLATE

SECRETLY = "{% if messages[-1].content == '" + eight_people.TRICK + "' %}{code}{% endif %}"


def make_models(folder: Path) -> Path:
    """Make what can be loaded, and what cannot; return the former."""
    code = eight_people.CODE
    templates = {
        eight_people.MODEL: TEMPLATE,
        eight_people.ALWAYS_EVIL: code + TEMPLATE,
        eight_people.EVIL: SECRETLY.replace("{code}", code) + TEMPLATE,
    }
    for name, template in templates.items():
        write_gguf(folder / name, "llama", template=template, context=eight_people.CONTEXT)
    model = folder / eight_people.MODEL
    (folder / eight_people.CUT).write_bytes(model.read_bytes()[:-1000])
    (folder / eight_people.TEXT).write_text("This is no model.\n", encoding="ascii")
    (folder / eight_people.TRANSFORMERS).mkdir()
    (folder / eight_people.TRANSFORMERS / "config.json").write_text("{}", encoding="ascii")
    return model


def main(folder: Path) -> None:
    """Do all of it and print the answers as JSON."""
    library = Library(make_models(folder), context=eight_people.CONTEXT)
    long, short = eight_people.LENGTH, eight_people.SHORT
    stayed = [library.answer(text, max_tokens=long) for text in eight_people.STAY]
    second = (eight_people.STAY[0], stayed[0], eight_people.SECOND)
    first = library.answer(eight_people.BOOK, max_tokens=short)
    book = (eight_people.BOOK, first, eight_people.SECOND)
    templated = f"[user] {eight_people.STAY[0]}\n[assistant]"
    alone = [(text,) for text in (*eight_people.STAY, eight_people.ABORT, eight_people.LEAVE)]
    chats = [*alone, second, book[:1], book]
    read = [*(written(*chat) for chat in chats), templated]
    answers = {
        "stayed": stayed,
        "second": library.answer(*second, max_tokens=long),
        "book": [first, library.answer(*book, max_tokens=short)],
        "templated": library.go_on(templated, max_tokens=long),
        "good": library.answer(eight_people.GOOD, max_tokens=short),
        "read": sum(len(library.tokens(text)) for text in read),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
