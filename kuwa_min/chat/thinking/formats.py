"""How models mark what they think, in the vocabulary of transformers' response templates.

Facts, from the chat templates of the models:
- <think>: DeepSeek-R1, Qwen3, GLM, Kimi K2, Phi-4-reasoning, SmolLM3, MiniMax and most others. Some
  templates end with it, so that the model's own text begins within the thought; those of Qwen3 end
  with an empty thought if enable_thinking is false.
- Hunyuan, ERNIE and Granite 3.3 put the answer behind a thought into a tag, too.
- gpt-oss (harmony): messages with a header, <|channel|>analysis<|message|>...<|end|> and then
  <|start|>assistant<|channel|>final<|message|>...<|return|>; prompts end with <|start|>assistant.
- Granite 3.2 uses words, which an answer may begin with, too: without the closing ones they are its
  beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple


class Format(NamedTuple):
    """How one family of models marks its thoughts.

    forced: what the engine inserts to end a thought that is too long; is_plain: they are words.
    """

    open: str
    close: str
    forced: str = ""
    is_plain: bool = False

    @property
    def closing(self) -> str:
        """Return the text that ends a thought and lets the answer follow."""
        return self.forced or self.close


def _tag(name: str) -> Format:
    return Format(f"<{name}>", f"</{name}>", f"\n</{name}>\n\n")


# The messages of harmony. HARMONY is what a thought is in it.
MESSAGE = "<|message|>"
HEADERS = ("<|start|>", "<|channel|>")  # what a message's header begins with
ENDS = ("<|end|>", "<|return|>", "<|call|>")  # of a message
HARMONY_TOKENS = frozenset((*HEADERS, MESSAGE, *ENDS, "<|constrain|>"))
LAST_TURN = "<|start|>assistant"
HARMONY = Format(
    f"<|channel|>analysis{MESSAGE}",
    "<|end|>",
    f"<|end|>{LAST_TURN}<|channel|>final{MESSAGE}",
)
BARE = Format("analysis", "assistantfinal")  # the same where special tokens were dropped
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
THINKING_CHANNELS = ("analysis",)
TO_A_TOOL = " to="  # in the header of a message that is not for the person

FORMATS = (
    *map(_tag, ("think", "thinking", "thought", "thoughts", "reasoning", "seed:think")),
    Format("[THINK]", "[/THINK]"),  # Magistral
    Format("◁think▷", "◁/think▷", "\n◁/think▷\n\n"),  # Kimi-VL
    Format("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Format("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Format("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Format("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    Format("Here is my thought process:", "Here is my response:", is_plain=True),  # Granite 3.2
    Format("Here's my thought process:", "Here's my response:", is_plain=True),
)
# Markup around the answer behind a thought.
WRAPPERS = {
    "<answer>": "</answer>",
    "<response>": "</response>",
    "<|START_RESPONSE|>": "<|END_RESPONSE|>",
    "<|begin_of_solution|>": "<|end_of_solution|>",
}
Wrappers = Mapping[str, str]
OPENINGS = {one.open: one for one in FORMATS}
LONGEST = max(map(len, (*OPENINGS, *WRAPPERS, *HEADERS)))  # characters of a tag


@lru_cache
def any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds the first one of these texts."""
    return re.compile("|".join(map(re.escape, texts)))


def wrappers_but(asked: Iterable[str]) -> Wrappers:
    """Return the WRAPPERS that are a model's own: these texts, which it read, ask for others."""
    texts = [*asked]
    return {tag: end for tag, end in WRAPPERS.items() if not any(tag in text for text in texts)}
