"""Serve what transformers alone can do: the bare forward loop, and generate() of a static batch.

The clock runs in here, from the tokens of the prompts to the last token's number on the host. HTTP
only carries the order and the times. A process of its own.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from engines.graphed_step import GraphedStep
from engines.loop_server import serve

COLUMNS = 256  # of a static cache: a multiple of so many


class Loops:
    """A model and its tokenizer, as the library loads them."""

    def __init__(self, path: str, device: str, dtype: str) -> None:
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.device = device
        self.model = load(path, dtype=getattr(torch, dtype)).to(device).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side="left")
        self.kinds: dict[str, Callable[..., Any]] = {"bare": self.bare, "static": self.static}
        self.kinds["graph"] = self.graph
        self._steps: dict[tuple[int, int], GraphedStep] = {}

    @torch.inference_mode()
    def answer(self, kind: str, prompts: list[str], tokens: int) -> dict[str, Any]:
        """Compute greedy answers to prompts; return times and texts."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        ).to(self.device)
        started = time.perf_counter()
        first, rows = self.kinds[kind](inputs["input_ids"], inputs["attention_mask"], tokens)
        ended = time.perf_counter()
        texts = [self.tokenizer.decode(row) for row in rows]
        return {"seconds": ended - started, "decode": ended - first, "texts": texts}

    def bare(self, tokens: Any, mask: Any, count: int) -> tuple[float, list[list[int]]]:
        """Call forward() and argmax in turn; a mask only where lengths differ."""
        cache = transformers.DynamicCache(config=self.model.config)
        padded = not bool(mask.all())
        more: dict[str, Any] = {}
        rows, first = [], 0.0
        for number in range(count):
            if padded:
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
                more = {"attention_mask": mask, "position_ids": positions}
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=-1)
            out = self.model(tokens, cache=cache, use_cache=True, logits_to_keep=1, **more)
            tokens = out.logits[:, -1].argmax(-1, keepdim=True)
            rows.append(tokens.flatten().tolist())
            first = first if number else time.perf_counter()
        return first, [list(row) for row in zip(*rows, strict=True)]

    def graph(self, tokens: Any, _: Any, count: int) -> tuple[float, list[list[int]]]:
        """Replay a step of fixed shape; prompts of equal lengths, recorded at the first order."""
        rows, length = tokens.shape
        columns = -(-(length + count) // COLUMNS) * COLUMNS
        if (rows, columns) not in self._steps:
            self._steps[rows, columns] = GraphedStep(self.model, rows, columns)
        step = self._steps[rows, columns]
        found = [step.prefill(tokens)]
        first = time.perf_counter()
        found += [step.decode() for _ in range(count - 1)]
        return first, [list(row) for row in zip(*found, strict=True)]

    def static(self, tokens: Any, mask: Any, count: int) -> tuple[float, list[list[int]]]:
        """Let generate() answer a batch that no sequence joins or leaves."""
        first = time.perf_counter()
        made = self.model.generate(
            tokens, attention_mask=mask, max_new_tokens=count, do_sample=False
        )
        return first, made[:, tokens.shape[1] :].tolist()


def main() -> None:
    """Load a model and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model_path", "--device", "--dtype"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    loops = Loops(options.model_path, options.device, options.dtype)
    serve(loops.answer, options.port)


if __name__ == "__main__":
    main()
