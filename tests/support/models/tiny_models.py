"""Make tiny but real models in a moment, without a download: a transformers folder and a GGUF.

Both have a vocabulary of single bytes and random weights. A greedy answer never ends by chance and
is always text: special tokens and bytes that are no characters are never the likeliest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PAD, END = 0, 2
LAYERS, HIDDEN, HEADS, KV_HEADS, CONTEXT = 2, 64, 4, 2, 2048
SPREAD = 0.08  # of the weights: wide enough that the likeliest token is no near tie
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSING_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    + TEMPLATE
)


def byte_letters() -> list[str]:
    """Return the letter by which byte-level vocabularies write each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + number) for number in range(256))
    return [chr(byte) if byte in plain else next(others) for byte in range(256)]


def write_folder(
    path: Path,
    *,
    template: str | None = TEMPLATE,
    context: int = CONTEXT,
    more: Sequence[str] = (),
    weightless: Sequence[str] = (),
) -> Path:
    """Write a transformers folder; return its path.

    more: further special tokens; weightless: those that the model has no weights for.
    """
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens(list(more), special_tokens=True)
    size = len(tokenizer)
    tokenizer.add_tokens(list(weightless), special_tokens=True)
    tokenizer.save_pretrained(path)
    _model(size, context).save_pretrained(path)
    return path


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Return a tokenizer of single bytes; a byte's token is its number plus those of SPECIAL."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *byte_letters()])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    # AutoTokenizer makes every tokenizer of a qwen2 model work like this one
    like = Qwen2Tokenizer().backend_tokenizer
    inner.pre_tokenizer, inner.normalizer = like.pre_tokenizer, like.normalizer
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[PAD],
        chat_template=template,
    )


def _model(vocabulary: int, context: int) -> Any:
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, SPREAD)
        model.lm_head.weight[never_said()] = 0
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    return model


def never_said() -> list[int]:
    """Return the tokens that are special, control characters or no whole character."""
    return [*range(3), *range(3, 3 + 32), *range(3 + 127, 3 + 256)]


# -- GGUF: a head of names and values, then tensors, each at a multiple of 32 bytes

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
PACKED = {U16: "<H", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
NORMAL, CONTROL = 1, 3  # kinds of tokens
F32_DATA = 0  # the type of a tensor


def write_gguf(
    path: Path,
    *,
    template: str | None = TEMPLATE,
    context: int = CONTEXT,
    more: Sequence[str] = (),
    fields: Sequence[bytes] = (),
    pre: str = "qwen2",
) -> Path:
    """Write a GGUF file of the llama architecture; return its path.

    more: tokens that follow those of single bytes; fields: further ones of its head; pre: by what
    name llama.cpp knows the expressions that divide words.
    """
    tokens = [*SPECIAL, *byte_letters(), *more]
    head = [*_fields(tokens, context, pre), *fields]
    if template is not None:
        head.append(field("tokenizer.chat_template", STRING, template))
    return pack_gguf(path, head, _tensors(len(tokens)))


def split_gguf(path: Path, folder: Path) -> list[Path]:
    """Write what write_gguf() makes into two files in a folder, as llama.cpp splits models."""
    tokens = [*SPECIAL, *byte_letters()]
    tensors = list(_tensors(len(tokens)).items())
    half, parts = len(tensors) // 2, []
    template = field("tokenizer.chat_template", STRING, TEMPLATE)
    heads = (
        [*_fields(tokens, CONTEXT), template],
        [field("general.architecture", STRING, "llama")],
    )
    for number, head in enumerate(heads):
        fields = [
            *head,
            field("split.no", U16, number),
            field("split.count", U16, len(heads)),
            field("split.tensors.count", I32, len(tensors)),
        ]
        part = folder / f"{path.stem}-{number + 1:05}-of-{len(heads):05}.gguf"
        held = tensors[half:] if number else tensors[:half]
        parts.append(pack_gguf(part, fields, dict(held)))
    return parts


def pack_gguf(path: Path, fields: Sequence[bytes], tensors: dict[str, Any]) -> Path:
    """Write a GGUF file of these fields and arrays, as 32-bit floats; return its path."""
    import numpy

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields)
    parts: list[bytes] = []
    at = 0
    for name, values in tensors.items():
        shape = b"".join(struct.pack("<Q", size) for size in reversed(values.shape))
        head += (
            _text(name) + struct.pack("<I", values.ndim) + shape + struct.pack("<IQ", F32_DATA, at)
        )
        parts.append(_padded(values.astype(numpy.dtype("<f4")).tobytes()))
        at += len(parts[-1])
    path.write_bytes(_padded(head) + b"".join(parts))
    return path


def _tensors(vocabulary: int) -> dict[str, Any]:
    import numpy

    rng = numpy.random.default_rng(0)
    narrow = HIDDEN // HEADS * KV_HEADS

    def matrix(rows: int, columns: int) -> Any:
        return rng.standard_normal((rows, columns)) * SPREAD

    tensors = {
        "token_embd.weight": matrix(vocabulary, HIDDEN),
        "output_norm.weight": numpy.ones(HIDDEN),
        "output.weight": matrix(vocabulary, HIDDEN),
    }
    tensors["output.weight"][never_said()] = 0
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (narrow, HIDDEN),
        "attn_v": (narrow, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (2 * HIDDEN, HIDDEN),
        "ffn_up": (2 * HIDDEN, HIDDEN),
        "ffn_down": (HIDDEN, 2 * HIDDEN),
    }
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = numpy.ones(HIDDEN)
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = matrix(*shape)
    return tensors


def _fields(tokens: Sequence[str], context: int, pre: str = "qwen2") -> list[bytes]:
    return [
        *shape_fields("llama", context),
        field("llama.attention.head_count_kv", U32, KV_HEADS),
        *vocabulary_fields(tokens, pre),
    ]


def shape_fields(architecture: str, context: int) -> list[bytes]:
    """Return what every architecture says of its size."""
    return [
        field("general.architecture", STRING, architecture),
        field("general.name", STRING, "tiny"),
        field(f"{architecture}.context_length", U32, context),
        field(f"{architecture}.embedding_length", U32, HIDDEN),
        field(f"{architecture}.block_count", U32, LAYERS),
        field(f"{architecture}.feed_forward_length", U32, 2 * HIDDEN),
        field(f"{architecture}.attention.head_count", U32, HEADS),
        field(f"{architecture}.attention.layer_norm_rms_epsilon", F32, 1e-5),
    ]


def vocabulary_fields(tokens: Sequence[str], pre: str = "qwen2") -> list[bytes]:
    """Return a vocabulary of single bytes, or of more that follow them."""
    kinds = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(tokens) - len(SPECIAL))
    return [
        field("tokenizer.ggml.model", STRING, "gpt2"),
        field("tokenizer.ggml.pre", STRING, pre),
        array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.token_type", I32, kinds),
        array("tokenizer.ggml.merges", STRING, []),
        field("tokenizer.ggml.eos_token_id", U32, END),
        field("tokenizer.ggml.padding_token_id", U32, PAD),
        field("tokenizer.ggml.add_bos_token", BOOL, False),
    ]


def field(name: str, kind: int, value: Any) -> bytes:
    """Return one field of a GGUF file's head."""
    return _text(name) + struct.pack("<I", kind) + _value(kind, value)


def array(name: str, kind: int, values: Sequence[Any]) -> bytes:
    """Return one field that holds many values of a kind."""
    head = _text(name) + struct.pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(_value(kind, value) for value in values)


def _value(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(PACKED[kind], value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 32)
