"""The generation options of models that think, for the tables of several backends."""

from __future__ import annotations

from kuwa_min.chat.thinking.display import HIDE, MODES

from .generation_options import Option

THINKING = Option(
    "thinking",
    str,
    HIDE,
    "what a model thinks before it answers: hide, note it beside the answer, or show it",
    choices=MODES,
)
REASONING_EFFORT = Option("reasoning_effort", str, None, "how long to think: low, medium, high")
TEMPLATE_KWARGS = Option(
    "template_kwargs", dict, None, "variables of the chat template, such as enable_thinking"
)
THINKING_TOKENS = Option(
    "thinking_tokens", int, None, "longest thought in tokens; None: no limit", least=0
)
LOCAL_OPTIONS = (THINKING, THINKING_TOKENS, REASONING_EFFORT, TEMPLATE_KWARGS)  # of our engines
