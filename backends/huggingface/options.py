"""The generation options of transformers' GenerationConfig that the backend's table lacks.

Those that change the text and have plain values are passed to generate(), which alone implements
them: completions are then generated one at a time. A Modelfile can set none of them: a bot could
ask for a thousand beams. The others do not change the text (caches, outputs), are known already
(token ids), or need further code (assistants, contrastive search).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kuwa_min.options import generation_options, types
from kuwa_min.options.generation_options import Option

SAMPLING_OPTIONS = (  # of the backend's table: those that do nothing without do_sample
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
TOKEN_IDS = (  # whose values are a token's id or a list of them
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
)
UNTYPED = (
    "early_stopping",
    "bad_words_ids",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "watermarking_config",
)
PASSED = {*(one.name for one in TYPED), *TOKEN_IDS, *UNTYPED}
OURS = ("max_time", "eos_token_id")  # which the backend implements itself


def library() -> generation_options.Library:
    """Return the fields of GenerationConfig, and those of them that are passed on."""
    import transformers

    known = {*vars(transformers.GenerationConfig()), *PASSED}
    name = "transformers.GenerationConfig"
    return generation_options.Library(name, known, PASSED, convert=_convert)


def _convert(name: str, value: Any) -> Any:
    """Return a value as generate() takes it; raises ValueError."""
    option = next((one for one in TYPED if one.name == name), None)
    if option is not None:
        return option.convert(value)
    return token_ids(name, value) if name in TOKEN_IDS else value


def token_ids(name: str, value: Any) -> int | list[int]:
    """Return a token's id, or a list of them: [] for false and for -1, which mean none.

    Raises ValueError.
    """
    value = types.from_json(value)
    given = value if isinstance(value, list) else [] if value is False else [value]
    try:
        ids = [types.convert(int, one) for one in given]
    except ValueError:
        raise ValueError(f"{name} must be a token's number or a list of them") from None
    known = [one for one in ids if one >= 0]
    return known if isinstance(value, list) or not known else known[0]


def without_adapters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Modelfile's llm_* without llm_lora, and say what becomes of it."""
    if "lora" in asked:
        generation_options.warn_once(
            "llm_lora of a Modelfile has no effect here: --lora merges adapters at the start, for "
            "all bots"
        )
    return {name: value for name, value in asked.items() if name != "lora"}


def without_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those of the library that change nothing."""
    return {name: value for name, value in settings.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    option = next((one for one in TYPED if one.name == name), None)
    if option is not None:
        return bool(value == option.default)
    return name in PASSED and (value is False or value in ([], {}))


def generate_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that only generate() implements."""
    return {name: settings[name] for name in settings if name in PASSED and name not in OURS}
