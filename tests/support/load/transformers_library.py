"""Make tiny models, and say what the library itself answers to load_scenario_4.py.

For test_load_4.py; runs with the libraries of a built file:
python transformers_library.py FOLDER CONTEXT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support.load import load_scenario_4
from tests.support.models import tiny_models, tiny_vision

Message = dict[str, Any]


class Talker:
    """A model of text in a folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    def answer(self, *chat: Message, **more: str) -> str:
        """Return the answer to a chat."""
        inputs = self._inputs(chat, **more)
        made = self._model.generate(**inputs, max_new_tokens=load_scenario_4.LENGTH)
        return str(self._tokenizer.decode(made[0, inputs["input_ids"].shape[1] :]))

    def count(self, *chat: Message, **more: str) -> int:
        """Return how many tokens a chat has."""
        return int(self._inputs(chat, **more)["input_ids"].shape[1])

    def _inputs(self, chat: tuple[Message, ...], **more: str) -> Any:
        return self._tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, return_dict=True, return_tensors="pt", **more
        )


def look(folder: Path, picture: Path) -> str:
    """Return the answer of a model that sees."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    content = [
        {"type": "text", "text": load_scenario_4.LOOK},
        {"type": "image", "path": str(picture)},
    ]
    inputs = processor.apply_chat_template(
        [user(content)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    made = model.generate(**inputs, max_new_tokens=load_scenario_4.SHORT)
    return str(processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :]))


def user(content: Any) -> Message:
    """Return a user's message."""
    return {"role": "user", "content": content}


def main(folder: Path, context: int) -> None:
    """Do all of it and print the answers as JSON."""
    torch.set_num_threads(1)  # more would only wait for each other beside other tests
    tiny_models.write_folder(folder / "tiny", context=context)
    tiny_vision.write_llava(folder / "seer")
    (folder / load_scenario_4.GGUF).mkdir()
    tiny_models.write_gguf(folder / load_scenario_4.GGUF / "tiny.Q4_K_M.gguf")
    picture = folder / load_scenario_4.PICTURE
    picture.write_bytes(tiny_vision.png("navy"))
    talker = Talker(folder / "tiny")
    alone = [
        [user(text)]
        for text in (*load_scenario_4.STAY, load_scenario_4.ABORT, load_scenario_4.LEAVE)
    ]
    stayed = [talker.answer(*chat) for chat in alone[:2]]
    second = [*alone[0], {"role": "assistant", "content": stayed[0]}, user(load_scenario_4.SECOND)]
    template = {"chat_template": load_scenario_4.TEMPLATE}
    answers = {
        "stayed": stayed,
        "second": talker.answer(*second),
        "templated": talker.answer(*alone[0], **template),
        "looked": look(folder / "seer", picture),
        "read": sum(talker.count(*chat) for chat in [*alone, second])
        + talker.count(*alone[0], **template),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
