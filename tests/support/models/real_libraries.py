"""Ask llama.cpp and transformers themselves what a real model answers: the references of tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

CONTEXT = 2048  # tokens
Chat = list[dict[str, str]]


class Library:
    """A model as its library alone computes it."""

    def prompt_ids(self, chat: Chat) -> list[int]:
        """Return the tokens of a chat as the library renders the model's own template."""
        raise NotImplementedError

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Return the likeliest tokens after a prompt, up to what ends an answer."""
        raise NotImplementedError

    def logits(self, tokens: list[int]) -> Any:
        """Return the logits [tokens, vocabulary] after each token, computed in one pass."""
        raise NotImplementedError

    def margins(self, tokens: list[int], start: int) -> Any:
        """Return how much likelier (in logits) another token is than each one from `start` on."""
        logits = self.logits(tokens[:-1])[start - 1 :]
        return logits.max(-1) - logits[numpy.arange(len(logits)), tokens[start:]]


class LlamaLibrary(Library):
    """llama.cpp with one thread; EXACT: the options with which ours computes the same."""

    EXACT = (
        *("--flash_attn", "off", "--cache_type", "f32"),
        "--threads",
        "1",
        "--temperature",
        "0",
    )

    def __init__(self, path: Path) -> None:
        import llama_cpp

        from backends.llamacpp import bindings

        bindings.prepare()
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=CONTEXT,
            n_batch=CONTEXT,
            n_threads=1,
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )

    def prompt_ids(self, chat: Chat) -> list[int]:
        """Return the tokens of a chat as llama-cpp-python renders the template of the file."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        bos, eos = (
            self._llama.detokenize([token], special=True).decode()
            for token in (self._llama.token_bos(), self._llama.token_eos())
        )
        template = self._llama.metadata["tokenizer.chat_template"]
        written = Jinja2ChatFormatter(template, eos, bos)(messages=chat).prompt
        return list(self._llama.tokenize(written.encode(), add_bos=False, special=True))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Return the likeliest tokens after a prompt, up to what ends an answer."""
        self._llama.reset()
        made: list[int] = []
        for token in self._llama.generate(prompt, temp=0.0):
            if len(made) == count or token == self._llama.token_eos():
                break
            made.append(token)
        return made

    def logits(self, tokens: list[int]) -> Any:
        """Return the logits after each token: one llama_decode() that wants them all."""
        import llama_cpp

        context = self._llama.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        for at, token in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.logits[at] = token, at, 1
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
        batch.n_tokens = len(tokens)
        assert llama_cpp.llama_decode(context, batch) == 0
        shape = (len(tokens), self._llama.n_vocab())
        found = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=shape).copy()
        llama_cpp.llama_batch_free(batch)
        self._llama.reset()
        return found


class TransformersLibrary(Library):
    """Transformers; EXACT: the options with which ours computes the same."""

    EXACT = ("--dtype", "float32", "--do_sample", "false")

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(path)

    def prompt_ids(self, chat: Chat) -> list[int]:
        """Return the tokens of a chat as apply_chat_template() has them."""
        ids: Sequence[int] = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Return the likeliest tokens after a prompt, up to what ends an answer."""
        import torch

        input_ids = torch.tensor([prompt])
        made: list[int] = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=count,
        )[0, len(prompt) :].tolist()
        ends = self._model.generation_config.eos_token_id
        return [token for token in made if token != ends]

    def logits(self, tokens: list[int]) -> Any:
        """Return the logits after each token: one forward pass."""
        import torch

        with torch.inference_mode():
            return self._model(input_ids=torch.tensor([tokens])).logits[0].numpy()
