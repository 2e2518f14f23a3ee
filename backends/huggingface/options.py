"""The generation options of transformers' GenerationConfig that the backend's table lacks.

Those that change the text and have plain values are passed to generate(), which alone implements
them: completions are then generated one at a time. A Modelfile can set none of them: a bot could
ask for a thousand beams. The others do not change the text (caches, outputs), are known already
(token ids), or need further code (assistants, contrastive search).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kuwa_min.options import generation_options
from kuwa_min.options.generation_options import Option

SAMPLING_OPTIONS = (  # of the backend's table: those that a generation_config.json may state
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
HELP = ""
TYPED = (  # with the default values, which change nothing
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
    "early_stopping",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "decoder_start_token_id",
    "eos_token_id",
}
OURS = ("max_time", "eos_token_id")  # which the backend implements itself


def library() -> generation_options.Library:
    """Return the fields of GenerationConfig, and those of them that are passed on."""
    import transformers

    known = {*vars(transformers.GenerationConfig()), *UNTYPED, *(one.name for one in TYPED)}
    passed = {*UNTYPED, *(one.name for one in TYPED)}
    return generation_options.Library(
        "transformers.GenerationConfig", known, passed, convert=_convert
    )


def _convert(name: str, value: Any) -> Any:
    """Return a value as generate() takes it; None if it changes nothing. Raises ValueError."""
    option = next((one for one in TYPED if one.name == name), None)
    if option is not None:
        value = option.convert(value)
        return None if value == option.default else value
    if name == "eos_token_id":
        return _token_ids(name, value)
    return None if value is False else value


def _token_ids(name: str, value: Any) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(one) is int for one in ids):
        raise ValueError(f"{name} must be a token's number or a list of them")
    return ids


def generate_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that only generate() implements."""
    names = {*UNTYPED, *(one.name for one in TYPED)} - {*OURS}
    return {name: value for name, value in settings.items() if name in names}
