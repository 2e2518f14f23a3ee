"""The options that models of this machine have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kuwa_min.chat.sentence import Sentence
from kuwa_min.errors import UsageError
from kuwa_min.options import types
from kuwa_min.options.sentences import MUST_BE_AT_MOST, OPTION_REASON
from kuwa_min.options.text_file import InvalidTextFile, read_text

from .machine import processors

PROMPT_LIMIT = 3072  # tokens
NO_SEED = (None, -1)
DEFAULT_SEED = 0  # of --reproducible
MAX_SCALE = 100.0  # of an adapter, on either side of 0; beyond it all is noise
MAX_VALUES: dict[str, float] = {  # of options; the tables state only the least values
    "top_p": 1,
    "min_p": 1,
    "typical_p": 1,
    "temperature": 100,
    "frequency_penalty": 2,
    "presence_penalty": 2,
    "mirostat_mode": 2,
    "top_k": 2**31 - 1,
    "max_tokens": 2**31 - 1,
    "max_new_tokens": 2**31 - 1,
    "no_repeat_ngram_size": 2**31 - 1,
    "min_new_tokens": 2**31 - 1,
    "epsilon_cutoff": 1,
    "eta_cutoff": 1,
    "seed": 2**32 - 1,
}


class Lora(NamedTuple):
    """An adapter as the command line gives it."""

    path: str
    scale: float = 1.0  # times what it changes; 0: nothing


def add_visible_gpu(add: Callable[..., Any]) -> None:
    """Add --visible_gpu; add: a parser's add_argument."""
    add("--visible_gpu", metavar="N[,N]", help="graphics cards to use, as drivers number them")


def add_threads(add: Callable[..., Any]) -> None:
    """Add --threads; add: a parser's add_argument."""
    add(
        "--threads",
        type=types.whole_or_auto(1, processors.MAX_THREADS),
        default=types.AUTO,
        metavar="N|auto",
        help="threads that compute on a processor; auto: as many as are fastest",
    )


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of prompts, of reproducible answers and of their time limit."""
    group = parser.add_argument_group("options of the prompt")
    add = group.add_argument
    add(
        "--limit",
        type=types.whole(1),
        default=PROMPT_LIMIT,
        help="most tokens of a prompt",
    )
    add("--system_prompt", help="system prompt of bots that give none")
    add(
        "--no_system_prompt",
        action="store_true",
        help="never send a system prompt; a template may still write its own",
    )
    add(
        "--reproducible",
        action="store_true",
        help="equal requests get equal answers, more slowly: compute each chat alone, reuse "
        f"nothing, and draw with seed {DEFAULT_SEED} unless another is given",
    )
    add("--override_chat_template", metavar="TEXT|FILE", help="use it instead of the model's")
    add(
        "--parse_special_tokens",
        action="store_true",
        help="take special tokens such as <|im_end|> in what users and bots write for tokens, "
        "not for text: they can then begin turns of the system",
    )
    add(
        "--timeout",
        type=types.positive_seconds,
        metavar="SECONDS",
        help="longest time that an answer may be computed; None: no limit",
    )


def add_lora_option(add: Callable[..., Any], metavar: str, text: str) -> None:
    """Add --lora; add: a parser's add_argument; text: what is done with these adapters."""
    add(
        "--lora",
        nargs="+",
        action="extend",
        type=_lora,
        default=[],
        metavar=f"{metavar}[=SCALE]",
        help=f"{text}; SCALE: how strongly, 1 unless given",
    )


def parse_scale(text: str) -> float:
    """Return the scale of an adapter; raises ValueError if the text is none."""
    scale = float(text)
    if not abs(scale) <= MAX_SCALE:
        raise ValueError(text)
    return scale


def _lora(text: str) -> Lora:
    path, equals, scale = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return Lora(text)
    try:
        return Lora(path, parse_scale(scale))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a number from {-MAX_SCALE:g} to {MAX_SCALE:g} is needed behind =, not {scale!r}"
        ) from None


def excess_of(options: dict[str, Any]) -> Sentence | None:
    """Return why an option is above its maximum; None if the library can have them all."""
    for name, maximum in MAX_VALUES.items():
        if (options.get(name) or 0) > maximum:
            limit = MUST_BE_AT_MOST.format(maximum)
            return OPTION_REASON.format(name, limit)
    return None


def read_chat_template(text_or_file: str | None) -> str | None:
    """Return the template of --override_chat_template; raises UsageError for an unreadable file."""
    if not text_or_file or "{" in text_or_file:
        return text_or_file or None
    try:
        return read_text(text_or_file)
    except InvalidTextFile as error:
        raise UsageError(
            f"--override_chat_template {text_or_file} is no template, and no file of one: "
            f"it {error}"
        ) from None
