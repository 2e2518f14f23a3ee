"""Make prompts of a known number of tokens for a random model; no two begin alike."""

import random
import string

TEMPLATE_TOKENS = 19  # that the chat template puts around a lone question
EQUAL = (67,) * 8
MIXED = (24, 36, 49, 61, 73, 85, 98, 110)

_dice = random.Random(0)


def prompt(tokens: int) -> str:
    """Return a new question of this many tokens, the template's included; a letter is a token."""
    letters = _dice.choices(string.ascii_letters, k=tokens - TEMPLATE_TOKENS)
    return "".join(letters)
