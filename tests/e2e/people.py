"""Be four people at once on a machine without internet. For test_four_people.py.

Runs in a namespace of its own (machines.py): python people.py FILE MODEL SEER
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alone import is_offline, raise_loopback
from programs import Program, call, fetch, said, table, until

NAME = "huggingface"
LENGTH, LONGEST, SHORT = 500, 12_000, 16  # tokens of an answer
STAY, ABORT, LEAVE = ("Hello, who are you?", "世界 is a word."), "Tell me all.", "Go on for ever."
SECOND, LOOK, PICTURE, GGUF = "And then?", "What is it?", "picture.png", "gguf"
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
LONG_ANSWER = json.dumps([{"name": "parameter", "args": f"llm_max_new_tokens {LONGEST}"}])
OWN_TEMPLATE = json.dumps([{"name": "template", "args": TEMPLATE}])
FOREVER = 120  # seconds until a start has failed


class Person(threading.Thread):
    """Somebody who chats through a Kernel, and reads piece by piece."""

    def __init__(
        self, kernel: str, number: int, *messages: str, modelfile: str = "[]", whom: str = NAME
    ) -> None:
        super().__init__(daemon=True)
        self.ids = {"name": whom, "history_id": str(number), "user_id": str(number)}
        self._kernel, self._form = kernel, {**self.ids, **said(*messages, modelfile=modelfile)}
        self._read = b""
        self._leaves = threading.Event()

    def run(self) -> None:
        """Reserve a place, ask, and read to the end, or until it is time to leave."""
        until(lambda: fetch(f"{self._kernel}/v1.0/worker/schedule", self.ids)[1] == "READY")
        with call(f"{self._kernel}/v1.0/chat/completions", self._form) as response:
            while piece := response.read1(1 << 16):
                self._read += piece
                if self._leaves.is_set():
                    return

    @property
    def has_begun(self) -> bool:
        """Tell whether there is something to read."""
        return bool(self._read)

    @property
    def text(self) -> str:
        """Return what was read."""
        return self._read.decode()

    def leave(self) -> None:
        """Hang up at the next piece."""
        self._leaves.set()


def main(file: Path, model: str, seer: str) -> None:
    """Do all of it and print what was seen as JSON."""
    raise_loopback()
    assert is_offline()
    sys.path.append(str(file / "site-packages"))  # of the core, for the Kernel's table
    seen: dict[str, Any] = {"four": {}, "vision": {}}
    options = ("--concurrent_req_limit", "4", "--max_new_tokens", str(LENGTH))
    with running(file, seen["four"], "--model_path", model, *options) as program:
        seen |= four_at_once(program)
        seen["afterwards"] = looks(program)
        seen["second"] = ask(program, STAY[0], seen["stayed"][0], SECOND)
        seen["templated"] = ask(program, STAY[0], modelfile=OWN_TEMPLATE)
        seen["metrics"] = metrics(program)
    options = ("--max_new_tokens", str(SHORT))
    with running(file, seen["vision"], "--model_path", seer, *options) as program:
        picture = base64.b64encode(Path(PICTURE).read_bytes()).decode()
        seen["looked"] = ask(program, f"{LOOK} data:image/png;base64,{picture}")
    seen["refused"] = refusals(file, model)
    print(json.dumps(seen))


@contextmanager
def running(file: Path, seen: dict[str, Any], *options: str) -> Iterator[Program]:
    """Start an executor with a Kernel of its own; end it with SIGTERM and see how it ends."""
    words = (NAME, *options, "--embedded_kernel", "127.0.0.1:0", "--host", "127.0.0.1")
    with Program(*words, command=(sys.executable, str(file))) as program:
        program.wait_for(f"registered as {NAME}", FOREVER)
        yield program
        program.process.terminate()
        seen["code"] = program.end()
        seen["log"] = program.log


def four_at_once(program: Program) -> dict[str, Any]:
    """Let four people ask; one aborts and one hangs up while all are being answered."""
    kernel = program.kernel_url
    aborts = Person(kernel, 1, ABORT, modelfile=LONG_ANSWER)
    leaves = Person(kernel, 2, LEAVE, modelfile=LONG_ANSWER)
    stay = [Person(kernel, number, text) for number, text in enumerate(STAY, 3)]
    everybody = [aborts, leaves, *stay]
    for pair in (aborts, leaves), stay:  # the first two have long answers
        for person in pair:
            person.start()
        until(lambda pair=pair: all(person.has_begun for person in pair))
    seen = {"running": [person.is_alive() for person in everybody], "during": looks(program)}
    ids = {"history_id": f"[{aborts.ids['history_id']}]", "user_id": aborts.ids["user_id"]}
    seen["abort"] = fetch(f"{kernel}/v1.0/chat/abort", ids)
    leaves.leave()
    for person in everybody:
        person.join(FOREVER)
    seen["stayed"] = [person.text for person in stay]
    seen["left"] = [person.text for person in (aborts, leaves)]
    until(lambda: looks(program)["status"]["busy_slots"] == 0)
    return seen


def looks(program: Program) -> dict[str, Any]:
    """Return what the executor and its Kernel say of themselves."""
    port = program.url.rpartition("/")[0]
    return {
        "status": json.loads(fetch(f"{port}/status")[1]),
        "health": fetch(f"{port}/health")[0],
        "states": [record[1] for record in table(program.kernel_url)[NAME]],
    }


def metrics(program: Program) -> dict[str, float]:
    """Return the numbers that have no label but the executor's name."""
    lines = fetch(f"{program.url.rpartition('/')[0]}/metrics")[1].splitlines()
    pairs = (line.removeprefix("executor_framework_").split("{") for line in lines if "{" in line)
    return {name: float(rest.split()[-1]) for name, rest in pairs if "," not in rest}


def ask(program: Program, *messages: str, modelfile: str = "[]") -> str:
    """Chat alone, and return the answer."""
    person = Person(program.kernel_url, 5, *messages, modelfile=modelfile)
    person.run()
    return person.text


def refusals(file: Path, model: str) -> dict[str, Any]:
    """Start what cannot be started."""
    asked = {"mistyped": [model[:-1]], "gguf": [GGUF], "cuda": [model, "--device", "cuda"]}
    return {name: refusal(file, *words) for name, words in asked.items()}


def refusal(file: Path, *words: str) -> dict[str, Any]:
    """Return code and words of a start that is refused, and whether it imported torch."""
    command = [sys.executable, "-X", "importtime", str(file), NAME, "--model_path", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return {"code": done.returncode, "said": said, "imported_torch": "torch" in imported}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
