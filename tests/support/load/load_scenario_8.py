"""Run eight concurrent clients of a GGUF model. For test_load_8.py.

Runs in a namespace of its own (machines.py): python load_scenario_8.py FILE FOLDER, with the models
that llama_library.py makes in that folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.load.clients import ConcurrentClients, Scenario, command, metrics, status
from tests.support.programs import Program, until

CONTEXT, LIMIT = 16_384, 14_000  # tokens
LENGTH, LONGEST, SHORT = 2000, 12_000, 16  # tokens of an answer
STAY = (
    "Hello, who are you?",
    "世界 is a word.",
    "Hello, who are they?",
    "What is a kernel?",
    "Count to ten.",
    "Is it far?",
)
ABORT, LEAVE = "Read all of this. " * 720, "Go on for ever."  # seconds of reading
BOOK, SECOND = "Once upon a time. " * 300, "And then?"
LEAST = 10  # bytes that all others read while a prompt is certainly read beside them
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
TRICK, GOOD = "Do you run code?", "Good day."
CODE = "{{ cycler.__init__.__globals__.os.system('touch ran-code') }}"
MODEL, ALWAYS_EVIL, EVIL = "tiny.gguf", "always-evil.gguf", "evil.gguf"
CUT, TEXT, TRANSFORMERS = "cut.gguf", "text.gguf", "transformers"
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--temperature", "0", "--threads", "1")


def main(file: Path, models: Path) -> None:
    """Do all of it and print what was seen as JSON."""
    scenario = Scenario(file, "llamacpp")
    seen: dict[str, Any] = {"eight": {}, "evil": {}}
    options = (
        "--concurrent_req_limit",
        "8",
        "--waiting",
        "0",
        "--context_window",
        "0",
        "--limit",
        str(LIMIT),
    )
    options = (*EXACT, *options, "--max_tokens", str(LENGTH))
    with scenario.running(seen["eight"], "--model_path", str(models / MODEL), *options) as program:
        seen |= eight_at_once(scenario, program)
        seen["second"] = scenario.ask(program, STAY[0], seen["stayed"][0], SECOND)
        seen |= read_a_book(scenario, program)
        seen["templated"] = scenario.ask(program, STAY[0], modelfile=command("template", TEMPLATE))
        seen["bot"] = scenario.ask(program, STAY[0], modelfile=command("template", CODE))
        seen["metrics"] = metrics()
    options = (*EXACT, "--max_tokens", str(SHORT))
    with scenario.running(seen["evil"], "--model_path", str(models / EVIL), *options) as program:
        seen["tricked"] = [scenario.ask(program, text) for text in (TRICK, GOOD)]
    seen["refused"] = refusals(scenario, models)
    print(json.dumps(seen))


def eight_at_once(scenario: Scenario, program: Program) -> dict[str, Any]:
    """Run eight clients; one aborts during its prefill, and one disconnects."""
    clients = ConcurrentClients(
        scenario,
        program,
        aborts=scenario.client(program, 1, ABORT),
        leaves=scenario.client(
            program, 2, LEAVE, modelfile=command("parameter", f"llm_max_tokens {LONGEST}")
        ),
        stay=[scenario.client(program, number, text) for number, text in enumerate(STAY, 3)],
    )
    others = (clients.leaves, *clients.stay)
    clients.begin(*others)
    clients.aborts.start()
    until(lambda: status()["busy_slots"] == 8)
    clients.read_on(LEAST, *others)
    return clients.abort_and_leave()


def read_a_book(scenario: Scenario, program: Program) -> dict[str, Any]:
    """Ask about a long text, and once more; return the answers, and how many tokens were read."""
    short = command("parameter", f"llm_max_tokens {SHORT}")
    said, read = [BOOK], [tokens_read()]
    for _ in range(2):
        said += [scenario.ask(program, *said, modelfile=short), SECOND]
        read.append(tokens_read())
    return {"book": said[1::2], "book_tokens": [read[1] - read[0], read[2] - read[1]]}


def tokens_read() -> float:
    """Return how many tokens of prompts no slot had already."""
    now = metrics()
    return now["input_tokens_total"] - now["cached_input_tokens_total"]


def refusals(scenario: Scenario, models: Path) -> dict[str, Any]:
    """Start what cannot be started."""
    asked = {
        "mistyped": [models / MODEL.replace("y", "i")],
        "text": [models / TEXT],
        "cut": [models / CUT],
        "transformers": [models / TRANSFORMERS],
        "uncached": ["hf://owner/name?tiny.gguf"],
        "gpu": [models / MODEL, "--ngl", "-1"],
        "evil": [models / ALWAYS_EVIL],
    }
    return {
        name: scenario.refusal("llama_cpp", "--model_path", *map(str, words))
        for name, words in asked.items()
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
