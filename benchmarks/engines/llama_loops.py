"""Serve what llama-cpp-python alone can do: the bare decode loop, and create_completion().

The clock runs in here, from the tokens of the prompts to the last token's number on the host. HTTP
only carries the order and the times. A process of its own.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from engines.loop_server import serve
from engines.servers import SLOTS
from harness.contestants import ROOT

# For the library of this processor, which llama-cpp-python never loads:
sys.path.insert(0, str(ROOT))

import llama_cpp
import numpy

from backends.llamacpp import bindings
from backends.llamacpp.batching.context_params import FLASH_ATTENTION

AT_ONCE, IN_ONE_PASS = 2048, 512  # tokens of prompts, as ours
ASSISTANT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


class Loop:
    """A context for a number of sequences, called as directly as Python can."""

    def __init__(
        self, model: Any, vocabulary: int, *, sequences: int, options: argparse.Namespace
    ) -> None:
        context, threads = options.context, options.threads
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = sequences * context, sequences, False
        params.n_batch, params.n_ubatch = AT_ONCE, IN_ONE_PASS
        params.n_threads = params.n_threads_batch = threads
        kv_type = getattr(llama_cpp, f"GGML_TYPE_{options.cache_type.upper()}")
        params.type_k = params.type_v = kv_type
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = vocabulary
        self._batch = batch = llama_cpp.llama_batch_init(AT_ONCE, 0, 1)
        view = numpy.ctypeslib.as_array
        self._tokens, self._places, self._wanted = (
            view(array, shape=(AT_ONCE,)) for array in (batch.token, batch.pos, batch.logits)
        )
        view(batch.n_seq_id, shape=(AT_ONCE,))[:] = 1

    def clear(self) -> None:
        """Clear the KV cache."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def read(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Read prompts, as many tokens at once as there is room for; return the next tokens."""
        rows = [
            (token, place, row, place == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        found = []
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            for at, (token, place, row, is_last) in enumerate(part):
                self._tokens[at], self._places[at], self._wanted[at] = token, place, is_last
                self._batch.seq_id[at][0] = row
            found += list(self._decode(len(part), sum(is_last for *_, is_last in part)))
        return numpy.array(found)

    def go_on(self, tokens: Any, lengths: Sequence[int], count: int) -> list[Any]:
        """Return `count` further tokens of every sequence; `lengths`: what each holds."""
        width = len(lengths)
        self._wanted[:width] = 1
        self._places[:width] = lengths
        for row in range(width):
            self._batch.seq_id[row][0] = row
        steps = []
        for _ in range(count):
            self._tokens[:width] = tokens
            tokens = self._decode(width, width)
            steps.append(tokens)
            self._places[:width] += 1
        return steps

    def _decode(self, size: int, wanted: int) -> Any:
        self._batch.n_tokens = size
        if llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError("llama_decode() failed")
        logits = llama_cpp.llama_get_logits(self._context)
        shape = (wanted, self._vocabulary)
        return numpy.ctypeslib.as_array(logits, shape=shape).argmax(-1) if wanted else ()


class Loops:
    """A model, with a context for one sequence and one for eight, and a Llama of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.llama = llama_cpp.Llama(
            options.model_path,
            n_gpu_layers=options.ngl,
            n_ctx=options.context,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            flash_attn=False,
            verbose=False,
        )
        model, vocabulary = self.llama.model, self.llama.n_vocab()
        self.loops = {
            sequences: Loop(model, vocabulary, sequences=sequences, options=options)
            for sequences in (1, SLOTS)
        }
        self.kinds: dict[str, Callable[..., Any]] = {"bare": self.bare, "stream": self.stream}

    def answer(self, kind: str, prompts: list[str], tokens: int) -> dict[str, Any]:
        """Compute greedy answers to prompts; return times and texts."""
        chats = [
            self.llama.tokenize(ASSISTANT.format(prompt).encode(), add_bos=False, special=True)
            for prompt in prompts
        ]
        return dict(self.kinds[kind](chats, tokens))

    def bare(self, chats: list[list[int]], tokens: int) -> dict[str, Any]:
        """Call llama_decode() and argmax in turn."""
        loop = self.loops[len(chats)]
        loop.clear()
        started = time.perf_counter()
        first = loop.read(chats)
        begun = time.perf_counter()
        steps = [first, *loop.go_on(first, [len(chat) for chat in chats], tokens - 1)]
        ended = time.perf_counter()
        texts = [self.llama.detokenize(row).decode() for row in numpy.stack(steps, axis=1).tolist()]
        return {"seconds": ended - started, "decode": ended - begun, "texts": texts}

    def stream(self, chats: list[list[int]], tokens: int) -> dict[str, Any]:
        """Let create_completion() stream one answer."""
        self.llama.reset()
        arrivals = [time.perf_counter()]
        text = ""
        for chunk in self.llama.create_completion(
            chats[0], max_tokens=tokens, temperature=0.0, stream=True
        ):
            arrivals.append(time.perf_counter())
            text += chunk["choices"][0]["text"]
        started, begun, ended = arrivals[0], arrivals[1], arrivals[-1]
        return {"seconds": ended - started, "decode": ended - begun, "texts": [text]}


def main() -> None:
    """Load a model and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_path", required=True)
    for name in ("--context", "--port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ngl", type=int, default=0)
    parser.add_argument("--flash_attn", choices=FLASH_ATTENTION, default="off")
    parser.add_argument("--cache_type", default="f32")
    options = parser.parse_args()
    bindings.prepare()
    serve(Loops(options).answer, options.port)


if __name__ == "__main__":
    main()
