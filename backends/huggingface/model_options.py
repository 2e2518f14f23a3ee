"""The generation options that a model states itself, in generation_config.json.

Models of older versions of transformers state them in config.json. The library drops a file that it
cannot parse without a word, and most wrong values only fail in the first completion: therefore the
file is read here, and the library gets what it says as arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backends._local.model_files.sniff import InvalidModelFile, printable, read_json
from kuwa_min.errors import UsageError

from .options import PASSED, token_ids

logger = logging.getLogger(__name__)

GENERATION_CONFIG, CONFIG = "generation_config.json", "config.json"
DECODERS = ("decoder", "generator", "text_config")  # of config.json: the decoder's configuration
EOS = "eos_token_id"
SPECIAL = (EOS, "bos_token_id", "pad_token_id", "decoder_start_token_id")
NEUTRAL = {  # fields of GenerationConfig that change no text: caches, outputs, speed; and notes
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "prefill_chunk_size",
    "low_memory",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "use_mtp",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "max_length",  # of an answer with its prompt: here --max_new_tokens and the context bound it
    "_from_model_config",
    "transformers_version",
    "_commit_hash",
}


class ModelOptions(NamedTuple):
    """What the files of a model state."""

    place: str  # the file that states the options
    values: dict[str, Any]  # generation options, unconverted
    special_ids: dict[str, int | list[int]]  # token ids, by the names in SPECIAL


def read(path: str, model_path: str, names: Collection[str]) -> ModelOptions:
    """Read the options of a model, and log those that have no effect here; raises UsageError.

    path: a folder, or a name on the hub; model_path: as the user gave it; names: the options of the
    backend's table, with aliases.
    """
    try:
        own, config = _read(path, GENERATION_CONFIG), _read(path, CONFIG) or {}
    except InvalidModelFile as error:
        raise UsageError(f"--model_path {model_path} cannot be loaded: {error}") from None
    legacy = _decoder(config) | config
    stated = _stated(legacy if own is None else own)
    longest = stated.get("max_length")
    if legacy.get("is_encoder_decoder") and type(longest) is int and longest > 1:
        stated.setdefault("max_new_tokens", longest - 1)  # without the decoder's first token
    place = f"{model_path}: {CONFIG if own is None else GENERATION_CONFIG}"
    values = {
        name: value
        for name, value in stated.items()
        if name in names or (name in PASSED and name not in SPECIAL)
    }
    if own is not None:
        _log_ignored(place, stated.keys() - values.keys() - NEUTRAL - {*SPECIAL}, stated)
    if values:
        logger.info("%s sets %s", place, ", ".join(_brief(*pair) for pair in values.items()))
    try:
        special = _special_ids(_stated(legacy) | _stated(own or {}))
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None
    return ModelOptions(place, values, special)


def _read(path: str, name: str) -> dict[str, Any] | None:
    """Return a file's JSON object, None without such a file; raises InvalidModelFile."""
    file = _find(path, name)
    try:
        return read_json(file) if file else None
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{name} {error}") from None


def _find(path: str, name: str) -> Path | None:
    """Return a file of a folder, or of a hub name; None if there is none."""
    if Path(path).is_dir():
        file = Path(path, name)
        return file if file.exists() or file.is_symlink() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:  # loading the model says why
        logger.debug("%s of %s: %s", name, path, error)
        return None
    return Path(found) if found else None


def _decoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model's decoder, {} if it has none of its own."""
    nested = (config.get(name) for name in DECODERS)
    return next((one for one in nested if isinstance(one, dict)), {})


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _special_ids(values: Mapping[str, Any]) -> dict[str, int | list[int]]:
    """Return the ids of special tokens; raises ValueError."""
    found = {name: token_ids(name, value) for name, value in values.items() if name in SPECIAL}
    return {
        name: ids[0] if isinstance(ids, list) and name != EOS else ids
        for name, ids in found.items()
        if ids != []
    }


def _log_ignored(place: str, names: Collection[str], values: Mapping[str, Any]) -> None:
    """Log which options have no effect; 0, 1, false and empty lists turn most of them off."""
    ignored = sorted(name for name in names if values[name] and values[name] != 1)
    if ignored:
        logger.warning("%s: without effect here: %s", place, ", ".join(map(printable, ignored)))


def _brief(name: str, value: Any) -> str:
    """Return an option for the log, without its value if that may be long."""
    return name if isinstance(value, list | dict) else f"{name}={printable(str(value))}"
