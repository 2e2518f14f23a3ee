"""Ask a backend of a service as a slot does: with a form's tokens, a language, a Modelfile."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.chat.sentence import language_of, render, sentence_of
from kuwa_min.errors import AnswerError
from kuwa_min.serving.generations.generator_runner import GeneratorRunner

ROLES = ("user", "assistant")


def start(kind: type[LLMExecutor], *options: object) -> Any:
    """Return a backend that was set up with this command line."""
    former, sys.argv = sys.argv, ["kuwa", *map(str, options)]
    try:
        executor = kind()
        executor.setup()
    finally:
        sys.argv = former
    return executor


def pieces(
    executor: LLMExecutor,
    *said: str,
    runner: GeneratorRunner | None = None,
    write: Callable[[str], object] | None = None,
    form: dict[str, str] | None = None,
    **commands: str,
) -> list[str]:
    """Return the pieces of an answer to what user and assistant said in turn.

    form: its other fields, and `lang`; commands: the Modelfile's, a parameter as llm_name="value".
    """
    entries = [
        {"name": "parameter", "args": f"{name} {text}"}
        if name.startswith("llm_")
        else {"name": name.replace("_", "-"), "args": text}
        for name, text in commands.items()
    ]
    modelfile = Modelfile.from_json(json.dumps(entries))
    modelfile.parameters.update({f"_{name}": value for name, value in (form or {}).items()})
    history = [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(said)]
    taken: list[str] = []
    answer = executor.llm_compute(history, modelfile)
    (runner or GeneratorRunner()).run(answer, write or taken.append)
    return taken


def ask(executor: LLMExecutor, *said: str, **more: Any) -> str:
    """Return a whole answer as the user reads it, with the sentence that ends it if one does."""
    language = language_of((more.get("form") or {}).get("lang"))
    taken: list[str] = []
    try:
        pieces(executor, *said, write=taken.append, **more)
    except AnswerError as error:
        taken.append(sentence_of(error))
    return "".join(render(piece, language) for piece in taken)
