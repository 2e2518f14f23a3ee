"""Run four concurrent clients of transformers models. For test_load_4.py.

Runs in a namespace of its own (machines.py): python load_scenario_4.py FILE MODEL SEER
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from tests.support.load.clients import ConcurrentClients, Scenario, command, metrics
from tests.support.programs import Program

LENGTH, LONGEST, SHORT = 500, 12_000, 16  # tokens of an answer
STAY, ABORT, LEAVE = ("Hello, who are you?", "世界 is a word."), "Tell me all.", "Go on for ever."
SECOND, LOOK, PICTURE, GGUF = "And then?", "What is it?", "picture.png", "gguf"
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
ALONE = ("--threads", "1")  # more would only wait for each other beside other tests
LONG_ANSWER = command("parameter", f"llm_max_new_tokens {LONGEST}")


def main(file: Path, model: str, seer: str) -> None:
    """Do all of it and print what was seen as JSON."""
    scenario = Scenario(file, "huggingface")
    seen: dict[str, Any] = {"four": {}, "vision": {}}
    options = ("--concurrent_req_limit", "4", "--waiting", "0", "--max_new_tokens", str(LENGTH))
    options = (*ALONE, *options)
    with scenario.running(seen["four"], "--model_path", model, *options) as program:
        seen |= four_at_once(scenario, program)
        seen["second"] = scenario.ask(program, STAY[0], seen["stayed"][0], SECOND)
        seen["templated"] = scenario.ask(program, STAY[0], modelfile=command("template", TEMPLATE))
        seen["metrics"] = metrics()
    options = (*ALONE, "--max_new_tokens", str(SHORT))
    with scenario.running(seen["vision"], "--model_path", seer, *options) as program:
        picture = base64.b64encode(Path(PICTURE).read_bytes()).decode()
        seen["looked"] = scenario.ask(program, f"{LOOK} data:image/png;base64,{picture}")
    seen["refused"] = refusals(scenario, model)
    print(json.dumps(seen))


def four_at_once(scenario: Scenario, program: Program) -> dict[str, Any]:
    """Run four clients; one aborts and one disconnects while all are being answered."""
    clients = ConcurrentClients(
        scenario,
        program,
        aborts=scenario.client(program, 1, ABORT, modelfile=LONG_ANSWER),
        leaves=scenario.client(program, 2, LEAVE, modelfile=LONG_ANSWER),
        stay=[scenario.client(program, number, text) for number, text in enumerate(STAY, 3)],
    )
    clients.begin(clients.aborts, clients.leaves)  # they have long answers
    clients.begin(*clients.stay)
    return clients.abort_and_leave()


def refusals(scenario: Scenario, model: str) -> dict[str, Any]:
    """Start what cannot be started."""
    asked = {"mistyped": [model[:-1]], "gguf": [GGUF], "cuda": [model, "--device", "cuda"]}
    return {
        name: scenario.refusal("torch", "--model_path", *words) for name, words in asked.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
