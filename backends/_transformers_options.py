"""Know what transformers' GenerationConfig takes beyond the backend's table.

What changes an answer, and can be written down as plain values, is passed: only generate() knows
it, so chats are computed one at a time then. Bots get none of it: one could ask for a thousand
beams. The rest makes no difference to the text (caches, outputs), is known to us already (token
numbers), or needs code from elsewhere (assistants, contrastive search).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from kuwa_min import generation
from kuwa_min.generation import Option

HELP = ""
TYPED = (  # with the values that change nothing
    Option("num_beams", int, 1, HELP, least=1),
    Option("length_penalty", float, 1.0, HELP),
    Option("min_length", int, 0, HELP, least=0),
    Option("encoder_repetition_penalty", float, 1.0, HELP, least=0.01),
    Option("encoder_no_repeat_ngram_size", int, 0, HELP, least=0),
    Option("guidance_scale", float, 1.0, HELP),
    Option("top_h", float, None, HELP, least=0),
    Option("renormalize_logits", bool, False, HELP),
    Option("remove_invalid_values", bool, False, HELP),
    Option("max_time", float, None, HELP, least=0.001),
)
UNTYPED = {
    *("early_stopping", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("sequence_bias", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "decoder_start_token_id", "eos_token_id"),
}
NOT_FOR_GENERATE = ("max_time", "eos_token_id")  # the backend sees to these itself


def library() -> generation.Library:
    """Return the fields of the library's class."""
    known = {*vars(transformers.GenerationConfig()), *UNTYPED, *(one.name for one in TYPED)}
    passed = {*UNTYPED, *(one.name for one in TYPED)}
    return generation.Library("transformers.GenerationConfig", known, passed, convert=_convert)


def _convert(name: str, value: Any) -> Any:
    """Return a value as the library takes it; None if it changes nothing."""
    option = next((one for one in TYPED if one.name == name), None)
    if option is not None:
        value = option.convert(value)
        return None if value == option.default else value
    if name == "eos_token_id":
        return _tokens(name, value)
    return None if value is False else value


def _tokens(name: str, value: Any) -> list[int]:
    tokens = value if isinstance(value, list) else [value]
    if not all(type(token) is int for token in tokens):
        raise ValueError(f"{name} must be a token's number or a list of them")
    return tokens


def beyond(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only generate() does of all that is asked for."""
    names = {*UNTYPED, *(one.name for one in TYPED)} - {*NOT_FOR_GENERATE}
    return {name: value for name, value in settings.items() if name in names}
