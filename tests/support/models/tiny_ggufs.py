"""Make tiny GGUF files of several architectures, and ask llama-cpp-python what they answer.

Each architecture remembers its chats in another way; tokens and template are those of tiny_models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.models.tiny_models import (
    CONTEXT,
    F32,
    HEADS,
    HIDDEN,
    I32,
    KV_HEADS,
    LAYERS,
    SPECIAL,
    STRING,
    TEMPLATE,
    U32,
    array,
    byte_letters,
    field,
    never_said,
    pack_gguf,
    shape_fields,
    vocabulary_fields,
)

SPREAD = 0.2  # of the weights: wide enough that an answer depends on all that was said
WINDOW = 32  # tokens that a layer with a window sees
EXPERTS = 4
VOCABULARY = len(SPECIAL) + 256
HEAD = HIDDEN // HEADS
NARROW = HEAD * KV_HEADS
STATE, RANK, KERNEL, INNER = 16, 4, 4, 2 * HIDDEN  # of Mamba
ARCHITECTURES = ("llama", "qwen2", "gemma2", "experts", "mamba", "lfm2")
STATEFUL = ("mamba", "lfm2")  # whose memory is a state, as a whole or in some layers
ROLES = ("user", "assistant")

Tensors = dict[str, Any]


def write_gguf(
    path: Path, architecture: str, *, template: str | None = TEMPLATE, context: int = CONTEXT
) -> Path:
    """Write a GGUF file of an architecture; return its path."""
    fields = [*HEADS_OF[architecture](context), *vocabulary(template)]
    return pack_gguf(path, fields, Weights().of(architecture))


def vocabulary(template: str | None = TEMPLATE) -> list[bytes]:
    """Return the fields of a vocabulary of single bytes, with a chat template."""
    fields = vocabulary_fields([*SPECIAL, *byte_letters()])
    if template is not None:
        fields.append(field("tokenizer.chat_template", STRING, template))
    return fields


def _llama(context: int) -> list[bytes]:
    return [*shape_fields("llama", context), field("llama.attention.head_count_kv", U32, KV_HEADS)]


def _qwen2(context: int) -> list[bytes]:
    return [*shape_fields("qwen2", context), field("qwen2.attention.head_count_kv", U32, KV_HEADS)]


def _gemma2(context: int) -> list[bytes]:
    return [
        *shape_fields("gemma2", context),
        field("gemma2.attention.head_count_kv", U32, KV_HEADS),
        field("gemma2.attention.key_length", U32, HEAD),
        field("gemma2.attention.value_length", U32, HEAD),
        field("gemma2.attention.sliding_window", U32, WINDOW),
        field("gemma2.attn_logit_softcapping", F32, 50.0),
        field("gemma2.final_logit_softcapping", F32, 30.0),
    ]


def _experts(context: int) -> list[bytes]:
    return [
        *_llama(context),
        field("llama.expert_count", U32, EXPERTS),
        field("llama.expert_used_count", U32, 2),
    ]


def _mamba(context: int) -> list[bytes]:
    return [
        *shape_fields("mamba", context),
        field("mamba.ssm.conv_kernel", U32, KERNEL),
        field("mamba.ssm.inner_size", U32, INNER),
        field("mamba.ssm.state_size", U32, STATE),
        field("mamba.ssm.time_step_rank", U32, RANK),
    ]


def _lfm2(context: int) -> list[bytes]:
    return [
        *shape_fields("lfm2", context),
        array("lfm2.attention.head_count_kv", I32, [0, KV_HEADS]),
        field("lfm2.shortconv.l_cache", U32, 3),
    ]


HEADS_OF = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma2": _gemma2,
    "experts": _experts,
    "mamba": _mamba,
    "lfm2": _lfm2,
}


class Weights:
    """Random weights, the same each time."""

    def __init__(self) -> None:
        import numpy

        self._numpy = numpy
        self._rng = numpy.random.default_rng(0)

    def of(self, architecture: str) -> Tensors:
        """Return the tensors of an architecture by name."""
        tensors = {
            "token_embd.weight": self._matrix(VOCABULARY, HIDDEN),
            "output_norm.weight": self._ones(HIDDEN),
        }
        if architecture == "gemma2":  # embeddings and output are the same
            tensors["token_embd.weight"][never_said()] = 0
        else:
            tensors["output.weight"] = self._matrix(VOCABULARY, HIDDEN)
            tensors["output.weight"][never_said()] = 0
        if architecture == "lfm2":
            tensors["token_embd_norm.weight"] = tensors.pop("output_norm.weight")
        for layer in range(LAYERS):
            made = getattr(self, f"_{architecture}")(layer)
            tensors |= {f"blk.{layer}.{name}": values for name, values in made.items()}
        return tensors

    def _matrix(self, rows: int, columns: int) -> Any:
        return self._rng.standard_normal((rows, columns)) * SPREAD

    def _ones(self, count: int) -> Any:
        return self._numpy.ones(count)

    def _attention(self) -> Tensors:
        return {
            "attn_norm.weight": self._ones(HIDDEN),
            "attn_q.weight": self._matrix(HIDDEN, HIDDEN),
            "attn_k.weight": self._matrix(NARROW, HIDDEN),
            "attn_v.weight": self._matrix(NARROW, HIDDEN),
            "attn_output.weight": self._matrix(HIDDEN, HIDDEN),
        }

    def _feed_forward(self) -> Tensors:
        return {
            "ffn_norm.weight": self._ones(HIDDEN),
            "ffn_gate.weight": self._matrix(2 * HIDDEN, HIDDEN),
            "ffn_up.weight": self._matrix(2 * HIDDEN, HIDDEN),
            "ffn_down.weight": self._matrix(HIDDEN, 2 * HIDDEN),
        }

    def _llama(self, _: int) -> Tensors:
        return self._attention() | self._feed_forward()

    def _qwen2(self, _: int) -> Tensors:
        biases = {"attn_q.bias": HIDDEN, "attn_k.bias": NARROW, "attn_v.bias": NARROW}
        return (
            self._attention()
            | {name: self._matrix(1, size)[0] for name, size in biases.items()}
            | self._feed_forward()
        )

    def _gemma2(self, _: int) -> Tensors:
        norms = {
            f"{name}.weight": self._ones(HIDDEN)
            for name in ("post_attention_norm", "post_ffw_norm")
        }
        return self._attention() | self._feed_forward() | norms

    def _experts(self, _: int) -> Tensors:
        shapes = {
            "ffn_gate_exps": (2 * HIDDEN, HIDDEN),
            "ffn_up_exps": (2 * HIDDEN, HIDDEN),
            "ffn_down_exps": (HIDDEN, 2 * HIDDEN),
        }
        made = {
            f"{name}.weight": self._numpy.stack([self._matrix(*shape) for _ in range(EXPERTS)])
            for name, shape in shapes.items()
        }
        made["ffn_gate_inp.weight"] = self._matrix(EXPERTS, HIDDEN) * 5
        made["ffn_norm.weight"] = self._ones(HIDDEN)
        return self._attention() | made

    def _mamba(self, _: int) -> Tensors:
        return {
            "attn_norm.weight": self._ones(HIDDEN),
            "ssm_in.weight": self._matrix(2 * INNER, HIDDEN),
            "ssm_conv1d.weight": self._matrix(INNER, KERNEL),
            "ssm_conv1d.bias": self._matrix(1, INNER)[0],
            "ssm_x.weight": self._matrix(RANK + 2 * STATE, INNER),
            "ssm_dt.weight": self._matrix(INNER, RANK),
            "ssm_dt.bias": self._ones(INNER),
            "ssm_a": -self._numpy.exp(self._matrix(INNER, STATE)) / 10,  # it forgets slowly
            "ssm_d": self._ones(INNER),
            "ssm_out.weight": self._matrix(HIDDEN, INNER),
        }

    def _lfm2(self, layer: int) -> Tensors:
        if layer:
            norms = {f"attn_{one}_norm.weight": self._ones(HEAD) for one in ("q", "k")}
            return self._attention() | norms | self._feed_forward()
        return {
            "attn_norm.weight": self._ones(HIDDEN),
            "shortconv.conv.weight": self._matrix(HIDDEN, 3),
            "shortconv.in_proj.weight": self._matrix(3 * HIDDEN, HIDDEN),
            "shortconv.out_proj.weight": self._matrix(HIDDEN, HIDDEN),
        } | self._feed_forward()


class Library:
    """What llama-cpp-python's own generate() answers, one chat after the other."""

    def __init__(
        self, path: Path, *, context: int = 4096, lora: Path | None = None, scale: float = 1.0
    ) -> None:
        """lora: an adapter that it has."""
        import llama_cpp

        from backends.llamacpp import bindings

        bindings.prepare()
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_threads=1,
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            lora_path=None if lora is None else str(lora),
            lora_scale=scale,
            verbose=False,
        )
        self._ends = {2}
        self._known: dict[tuple[Any, ...], str] = {}

    def answer(self, *said: str, system: str = "", max_tokens: int, **options: Any) -> str:
        """Return the answer to what user and assistant said in turn; greedy unless told."""
        key = (said, system, max_tokens, *sorted(options.items()))
        if key not in self._known:
            self._known[key] = self._answer(said, system, max_tokens, dict(options))
        return self._known[key]

    def _answer(
        self, said: tuple[str, ...], system: str, most: int, options: dict[str, Any]
    ) -> str:
        return self.go_on(written(*said, system=system), max_tokens=most, **options)

    def go_on(self, text: str, *, max_tokens: int, **options: Any) -> str:
        """Return what follows a text that a template has written; greedy unless told."""
        self._llama.reset()
        self._llama.set_seed(options.pop("seed", 0))
        options["temp"] = options.pop("temperature", 0.0)
        made: list[int] = []
        for token in self._llama.generate(self.tokens(text), **options):
            if token in self._ends:
                break
            made.append(token)
            if len(made) == max_tokens:
                break
        pieces = b"".join(self._llama.detokenize([token]) for token in made)
        return pieces.decode("utf-8", "replace")

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text that a template has written."""
        found: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=True)
        return found


def written(*said: str, system: str = "") -> str:
    """Return what user and assistant said in turn as the template of tiny_models writes it."""
    turns = [("system", system)] if system else []
    turns += [(ROLES[n % 2], text) for n, text in enumerate(said)]
    chat = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{chat}<|im_start|>assistant\n"
