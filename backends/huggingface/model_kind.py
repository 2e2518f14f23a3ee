"""Refuse models that the library would load, but that write no text: other tasks, other weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import transformers

from backends._local.model_files.sniff import join_names, printable
from kuwa_min.errors import StartError

WRITERS = ("ForCausalLM", "LMHead", "LMHeadModel")  # ends of the names of classes that write text
TASKS = (  # the library's maps, and what their models do instead of writing
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "turns speech into text"),
    ("MODEL_FOR_CTC_MAPPING", "turns speech into text"),
    ("MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING", "speaks"),
    ("MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING", "speaks"),
    ("MODEL_FOR_TEXT_ENCODING_MAPPING", "turns text into numbers, as for a search"),
    ("MODEL_FOR_MASKED_LM_MAPPING", "turns text into numbers, as for a search"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "looks at pictures"),
    ("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING", "compares pictures and text"),
)


def check_writes_text(config: Any, model_class: Any, model_path: str) -> None:
    """Raise StartError if a model of this configuration answers no chats.

    model_class: the library's Auto class that would load it.
    """
    if model_class.__name__ in (getattr(config, "auto_map", None) or {}):
        return  # code that comes with the model
    is_known = type(config) in model_class._model_mapping
    if is_known and not _is_encoder(config):
        return
    does = next((does for name, does in TASKS if _is_in(config, name)), "is for another task")
    raise StartError(
        f"{model_path} is no model that answers chats: {printable(config.model_type)} {does}; "
        "a language model is needed"
    )


def _is_encoder(config: Any) -> bool:
    """Tell whether a model only reads: BERT could be loaded as a decoder, and would babble."""
    is_decoder = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    stated = getattr(config, "architectures", None) or ()
    is_writer = any(name.endswith(WRITERS) for name in stated)
    return _is_in(config, "MODEL_FOR_MASKED_LM_MAPPING") and not is_decoder and not is_writer


def _is_in(config: Any, mapping: str) -> bool:
    return type(config) in getattr(transformers, mapping, ())


def check_complete(missing: Collection[str], model_path: str) -> None:
    """Raise StartError if weights lack tensors, which the library would fill with random numbers.

    missing: the names of these tensors.
    """
    if missing:
        count = f"{len(missing)} tensor{'s' if len(missing) > 1 else ''}"
        raise StartError(
            f"{model_path} cannot be loaded: its weights lack {count} of the model "
            f"({join_names(sorted(missing))}); they are not complete, quantised in a way that "
            "config.json does not state, or those of a model for another task"
        )
