"""Refuse models that the library would load, but that write no text: other tasks, other weights."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import torch
import transformers

from backends._local.model_files.sniff import join_names, printable
from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

FIXED_POSITIONS = "Sinusoidal"  # in the names of the library's classes for such
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


def check_complete(missing: Collection[str], model: Any, model_path: str) -> None:
    """Raise StartError if weights lack tensors, which the library would fill with random numbers.

    missing: the names of these tensors; model: the library's, as it was loaded.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(one) for name, one in parameters.items() if name not in missing}
    absent = [name for name in missing if id(parameters.get(name)) not in loaded]  # and not tied
    random = sorted(name for name in absent if not _is_computed(name, model))
    if random:
        count = f"{len(random)} tensor{'s' if len(random) > 1 else ''}"
        raise StartError(
            f"{model_path} cannot be loaded: its weights lack {count} of the model "
            f"({join_names(random)}); they are not complete, quantised in a way that "
            "config.json does not state, or those of a model for another task"
        )
    if absent:
        logger.warning(
            "%s: its weights lack %s, which have the library's initial values",
            *(model_path, join_names(sorted(absent))),
        )


def _is_computed(name: str, model: Any) -> bool:
    """Tell whether the library's value of a tensor is no random one.

    Those are buffers, and the sines of fixed positions, which Pegasus and its kin do not save.
    """
    place, _, own = name.rpartition(".")
    module = model.get_submodule(place)
    is_buffer = not isinstance(getattr(module, own), torch.nn.Parameter)
    return is_buffer or FIXED_POSITIONS in type(module).__name__
