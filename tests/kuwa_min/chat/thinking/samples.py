"""Answers of models that think, as they write them: special tokens are a part of their own."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from kuwa_min.chat.thinking.answer_text import Splitter
from kuwa_min.chat.thinking.splitter import Part

THOUGHT = "The person greets. A list: [1] < 2, `</div>`?\n\n世界 🙂 - I greet, too.\n"
ANSWER = "Hello! 1 < 2 [ok]\n```html\n<think>\nno thought\n</think>\n```\n你好 🙂"
SPECIAL = re.compile(r"<\|?\w+\|?>|\[/?THINK\]")  # where a sample's special tokens are


class Sample(NamedTuple):
    """A model's text: what it is made of, and the end of the prompt in front of it."""

    text: str
    prompt_end: str = ""
    has_special_tokens: bool = False  # its markup is special tokens

    def pieces(self, size: int) -> list[tuple[str, bool]]:
        """Return the text in pieces of `size` bytes, and whether they are special tokens."""
        if not self.has_special_tokens:
            return [(one, False) for one in cut(self.text, size)]
        found, at = [], 0
        for match in SPECIAL.finditer(self.text):
            if match[0] in SPELLED:
                continue
            found += [(one, False) for one in cut(self.text[at : match.start()], size)]
            found.append((match[0], True))
            at = match.end()
        return found + [(one, False) for one in cut(self.text[at:], size)]


SPELLED = ("<think>",)  # of ordinary tokens
THINK = f"<think>\n{THOUGHT}</think>\n\n{ANSWER}"
HARMONY = (
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{ANSWER}"
)
SAMPLES = {
    "DeepSeek-R1, Qwen3": Sample(THINK),
    "opened by the template": Sample(THINK.removeprefix("<think>\n"), "<|Assistant|><think>\n"),
    "opened by both": Sample(THINK, "<|Assistant|><think>\n"),
    "Magistral": Sample(f"[THINK]{THOUGHT}[/THINK]{ANSWER}", "[/INST]", has_special_tokens=True),
    "Magistral, spelled": Sample(f"[THINK]{THOUGHT}[/THINK]{ANSWER}"),
    "gpt-oss": Sample(HARMONY, "<|end|><|start|>assistant", has_special_tokens=True),
    "gpt-oss, spelled": Sample(HARMONY, "<|end|><|start|>assistant"),
    "gpt-oss of a server": Sample(HARMONY),
    "Gemma 4": Sample(
        f"<|channel>thought\n{THOUGHT}<channel|>{ANSWER}", "<|turn>model\n", has_special_tokens=True
    ),
    "Granite 3.2": Sample(
        f"Here is my thought process:\n{THOUGHT}\nHere is my response:\n\n{ANSWER}"
    ),
    "Granite 3.3": Sample(f"<think>{THOUGHT}</think>\n<response>{ANSWER}</response>"),
    "Hunyuan": Sample(f"<think>\n{THOUGHT}\n</think>\n<answer>\n{ANSWER}\n</answer>"),
    "Seed-OSS": Sample(f"<seed:think>{THOUGHT}</seed:think>{ANSWER}"),
    "Kimi-VL": Sample(f"◁think▷{THOUGHT}◁/think▷\n\n{ANSWER}"),
    "Command A": Sample(
        f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>"
    ),
    "EXAONE Deep": Sample(f"<thought>\n{THOUGHT}</thought>\n\n{ANSWER}", "[|assistant|]"),
}


def cut(text: str, size: int) -> list[str]:
    """Return a text in pieces of `size` bytes, rounded down to whole characters."""
    decoded, data = [], text.encode()
    for end in range(0, len(data) + size, size):
        decoded.append(data[:end].decode("utf-8", "ignore"))
    return [two[len(one) :] for one, two in itertools.pairwise(decoded)]


def split(splitter: Splitter, pieces: list[tuple[str, bool]]) -> list[Part]:
    """Return all parts of an answer."""
    parts = [part for text, hidden in pieces for part in splitter.feed(text, hidden=hidden)]
    return parts + splitter.finish()


def joined(parts: list[Part], kind: str) -> str:
    """Return the parts of a kind as one text."""
    return "".join(text for one, text in parts if one == kind)
