"""Ask a model that sees by the library's own recipe, for tests that compare ours with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FEW = 16  # tokens of an answer


class Library:
    """A folder's model and its processor, as the library loads and uses them."""

    def __init__(self, folder: Path, processor: Any = None) -> None:
        import transformers

        self.processor = processor or transformers.AutoProcessor.from_pretrained(folder)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()

    def answer(self, *parts: Any) -> str:
        """Return the answer to one message of texts and of pictures' files."""
        return self.say(self.encode(*parts))

    def encode(self, *parts: Any) -> Any:
        """Return what the model reads of one message."""
        content = [
            {"type": "text", "text": one}
            if isinstance(one, str)
            else {"type": "image", "path": str(one)}
            for one in parts
        ]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, dtype=self.model.dtype)

    def say(self, inputs: Any) -> str:
        """Return the answer to what the model reads."""
        made = self.model.generate(**inputs, max_new_tokens=FEW)
        start = inputs["input_ids"].shape[1]
        assert made.shape[1] == start + FEW
        return str(self.processor.tokenizer.decode(made[0, start:], skip_special_tokens=True))
