"""Make a model folder of a given size with random weights, in seconds and without a download.

A token of an answer is one character, and that character is read as the same token again: so
characters count tokens, and a second turn's prompt begins with the tokens of the first. A greedy
answer never ends by chance. Runs as a process of its own, which alone loads torch for it.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.contestants import ROOT

sys.path.append(str(ROOT))  # for the smallest model, on which the larger ones are built

CONTEXT = 8192
SPREAD = 0.06  # of the weights: wide enough that the likeliest token is no near tie
FIRST_CHARACTER = 0x4E00  # from here on three bytes of UTF-8 each, of which 64 share the first two
SHARING = 64


@dataclass(frozen=True)
class Shape:
    """How large a model is; `pairs` times 64 characters are tokens of their own.

    is_compact: its numbers have 16 bits, or 8 in GGUF files; else 32.
    """

    pairs: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    is_compact: bool = False

    @property
    def tokens(self) -> int:
        """Return how many tokens follow those of single bytes."""
        return self.pairs * (SHARING + 1)


SHAPES = {
    "tiny": Shape(pairs=27, hidden=128, inner=512, layers=4, heads=4, kv_heads=2),  # 1.5 million
    "small": Shape(pairs=122, hidden=512, inner=1536, layers=8, heads=8, kv_heads=4),  # 33 million
    # for graphics cards; no more characters fit before the surrogates
    "1b": Shape(540, hidden=2048, inner=8192, layers=16, heads=32, kv_heads=8, is_compact=True),
    "7b": Shape(540, hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8, is_compact=True),
}


def write_folder(path: Path, shape: Shape) -> None:
    """Write a folder that transformers loads: tokenizer, template, configuration, weights."""
    from tests.support.models import tiny_models

    tiny_models.write_folder(path, context=CONTEXT)
    _add_characters(path / "tokenizer.json", shape.pairs, tiny_models.byte_letters())
    _replace_weights(path, shape)


def characters(pairs: int) -> str:
    """Return the characters that are tokens of their own."""
    return "".join(chr(FIRST_CHARACTER + number) for number in range(pairs * SHARING))


def _add_characters(file: Path, pairs: int, letters: list[str]) -> None:
    """Let the tokenizer merge a character's first two bytes, then the third."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    whole = [[letters[byte] for byte in one.encode()] for one in characters(pairs)]
    for first, second, _ in whole[::SHARING]:
        vocabulary[first + second] = len(vocabulary)
        merges.append([first, second])
    for first, second, third in whole:
        vocabulary[first + second + third] = len(vocabulary)
        merges.append([first + second, third])
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def _replace_weights(path: Path, shape: Shape) -> None:
    """Put a model of this shape in place of the smallest one, with its generation options."""
    import torch
    from transformers import AutoModelForCausalLM

    smallest = AutoModelForCausalLM.from_pretrained(path)
    config, said = smallest.config, smallest.lm_head.weight.abs().sum(1) > 0
    config.vocab_size = len(said) + shape.tokens
    config.hidden_size, config.intermediate_size = shape.hidden, shape.inner
    config.num_hidden_layers, config.layer_types = shape.layers, ["full_attention"] * shape.layers
    config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.kv_heads
    torch.manual_seed(0)
    dtype = torch.bfloat16 if shape.is_compact else torch.float32
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, SPREAD)
        halves = range(len(said), len(said) + shape.pairs)
        model.lm_head.weight[[*(~said).nonzero().flatten().tolist(), *halves]] = 0
    model.generation_config = smallest.generation_config
    model.save_pretrained(path)


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), SHAPES[sys.argv[2]])
