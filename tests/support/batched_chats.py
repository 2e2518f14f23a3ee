"""Have chats with one executor, all at once, and see their texts as they come."""

from __future__ import annotations

import json
import time
from typing import Any

from backends._local.executor import ModelExecutor
from kuwa_min import Modelfile
from kuwa_min.errors import AnswerError

ANSWER_TIMEOUT = 60.0  # seconds until an answer that does not come is a failure
ROLES = ("user", "assistant")


class Chats:
    """Chats with one executor, all at once."""

    def __init__(self, executor: ModelExecutor) -> None:
        self.executor = executor

    def ask(self, *said: str, **wishes: Any) -> Answer:
        """Submit what user and assistant said in turn; the wishes are those of `create`."""
        return self.submit(self.create(*said, **wishes))

    def submit(self, request: Any) -> Answer:
        """Let the executor answer a request."""
        self.executor.engine.submit(request)
        return Answer(request)

    def create(self, *said: str, system: str = "", **options: Any) -> Any:
        """Return a request of a chat; the options are a Modelfile's llm_*."""
        history = [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(said)]
        entries = [{"name": "parameter", "args": f"llm_{k} {v}"} for k, v in options.items()]
        entries += [{"name": "system", "args": system}] if system else []
        modelfile = Modelfile.from_json(json.dumps(entries))
        return self.executor.create_request(history, modelfile)


class Answer:
    """The text of a request as it comes."""

    def __init__(self, request: Any) -> None:
        self.request, self.text = request, ""

    def more(self, characters: int = 1) -> str:
        """Return all text so far, when this many more characters came or the answer is over."""
        wanted, deadline = len(self.text) + characters, time.monotonic() + ANSWER_TIMEOUT
        while len(self.text) < wanted and not self.request.drained:
            assert time.monotonic() < deadline, f"silent after {self.text!r}"
            self.text += self.request.next_text(0.1)
        return self.text

    @property
    def side_notes(self) -> str:
        """Return what is shown behind the text."""
        return "".join(self.request.side_notes)

    def whole(self) -> str:
        """Return the answer when it is over, with its side notes."""
        return self.more(10**9) + self.side_notes

    def cancel(self) -> None:
        """Want no more of it."""
        self.request.cancel()


def whole_or_sentence(answer: Answer) -> str:
    """Return an answer, or the sentence that the user reads instead."""
    try:
        return answer.whole()
    except AnswerError as error:
        return str(error)
