"""[Cloud model] OpenAI ChatGPT. Need API key."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from kuwa_min import Modelfile, address, generation, sentences
from kuwa_min.errors import AnswerError, StartError

from . import _api_key, _numbers, _openai_windows
from ._api_key import NO_KEY, PERSON, THIRD_PARTY, Key
from ._cloud_executor import CloudExecutor, Question, is_near
from ._openai_refusals import Problem
from ._refusal import clean
from ._transport_errors import ConnectionFailed

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {"openai": "openai>=2.0"}
OPENAI = "https://api.openai.com/v1"
ANSWER_SHARE, MOST_FOR_ANSWER = 8, 4096  # of a window, one part in so many, and at most so much
LIST_SECONDS = 5.0  # that a service has to list its models
LIST_AGAIN = 60.0  # seconds after which it is asked again, if it did not
MOST_NAMED = 5  # models that a line of the log names
OPTIONS = (
    generation.Option(
        "temperature", float, 0.5, "how freely to draw; 0: take the likeliest", least=0
    ),
    generation.Option("top_p", float, None, "draw from this share of the tokens", least=0),
    generation.Option("max_tokens", int, None, "longest answer in tokens", least=1),
    generation.Option(
        "max_completion_tokens", int, None, "the same, with the thinking before it", least=1
    ),
    generation.Option(
        "frequency_penalty", float, None, "avoid tokens the more, the more often said", least=-2
    ),
    generation.Option("presence_penalty", float, None, "avoid tokens that were said", least=-2),
    generation.Option("seed", int, None, "seed of the draw; None: another one each time"),
    generation.Option("n", int, None, "answers to compute; the first is shown", least=1),
    generation.Option(
        "top_logprobs", int, None, "have so many probabilities computed; none are shown", least=0
    ),
    generation.Option(
        "timeout", float, None, "seconds without a byte before an answer is given up", least=0.1
    ),
    generation.Option("stop", list, None, "end an answer before these texts"),
    generation.Option("reasoning_effort", str, None, "how long to think: low, medium, high"),
    generation.Option("verbosity", str, None, "how much to say: low, medium, high"),
    generation.Option("service_tier", str, None, "how soon the service is to answer"),
    generation.Option("top_k", int, None, "draw from so many tokens; not at OpenAI", least=-1),
    generation.Option("min_p", float, None, "least share of the likeliest; not at OpenAI", least=0),
    generation.Option(
        "repetition_penalty", float, None, "avoid what was said; not at OpenAI", least=0
    ),
)


class ChatgptExecutor(CloudExecutor):
    """Ask OpenAI, or whatever server speaks as it does: vLLM, SGLang, llama-server, Ollama, ..."""

    access_code = "chatgpt"
    table = OPTIONS
    key_variable = "OPENAI_API_KEY"

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add which service and model, whose key, and how long a chat may be."""
        add = parser.add_argument_group("options of the model").add_argument
        add("--base_url", type=address.web_address, default=OPENAI, help="URL of the service")
        add("--model", default="gpt-4o", help="model of bots that name none as llm_model")
        add(
            "--context_window",
            type=_numbers.whole(0),
            metavar="TOKENS",
            help="tokens that prompt and answer may have together; None or 0: as the service says",
        )
        add(
            "--use_third_party_api_key",
            action="store_true",
            help="send each person's Custom Third-Party API Token to --base_url",
        )
        add(
            "--send_openai_token",
            action="store_true",
            help="send each person's OpenAI API Token to --base_url even if that is not OpenAI's",
        )
        add(
            "--no_override_api_key",
            action="store_true",
            help="send the executor's own key even for people who have one",
        )
        add("--show_reasoning", action="store_true", help="show thinking, as side notes")
        super().extend_arguments(parser)

    def library(self) -> generation.Library:
        """Return what the SDK takes beyond the table."""
        from . import _openai_options

        return _openai_options.library()

    def connect(self) -> None:
        """Make the client, and see what the service has, if it is there."""
        from ._openai_client import Client
        from ._openai_service import Service

        base_url: str = self.args.base_url
        self._is_openai = _is_openai(base_url)
        self._looking = threading.Lock()
        self._windows: dict[str, int] = {}
        self._look_after = 0.0
        try:
            self.client = Client(base_url)
        except (OSError, ValueError) as error:  # certificates that cannot be read
            raise StartError(f"no connection to {base_url} can be made: {error}") from None
        defaults = {option.name: option.default for option in OPTIONS}
        show = self.args.show_reasoning
        self.service = Service(self.client, defaults, show_reasoning=show)
        self._warn()
        self._look()
        self.describe(
            service=base_url, model=self.args.model, context_window=self.window(self.args.model)
        )

    def _warn(self) -> None:
        parts = urlsplit(self.args.base_url)
        if parts.scheme == "http" and self.operator_key.text and not is_near(parts.hostname or ""):
            logger.warning("the key goes to %s unencrypted: it is no https address", parts.hostname)

    # -- whose key

    def key(self, modelfile: Modelfile) -> Key:
        """Return the person's key, or the operator's; raises AnswerError if one is missing."""
        chosen = self._given(modelfile)
        if not chosen.text or (self.args.no_override_api_key and self.operator_key.text):
            chosen = self.operator_key
        if not chosen.text and (self.args.use_third_party_api_key or self._is_openai):
            third_party = self.args.use_third_party_api_key
            raise AnswerError(
                sentences.NO_THIRD_PARTY_KEY if third_party else sentences.NO_OPENAI_KEY
            )
        if not _api_key.is_possible(chosen.text):
            third_party = chosen.owner == THIRD_PARTY
            raise AnswerError(
                sentences.BAD_THIRD_PARTY_KEY if third_party else sentences.BAD_OPENAI_KEY
            )
        return chosen

    def _given(self, modelfile: Modelfile) -> Key:
        """Return the key that came with the chat, if it may go to this service."""
        if self.args.use_third_party_api_key:
            return _api_key.given(modelfile.parameters.get("_third_party_token"), THIRD_PARTY)
        if self._is_openai or self.args.send_openai_token:
            return _api_key.given(modelfile.parameters.get("_openai_token"), PERSON)
        return NO_KEY

    # -- how much fits

    def limit(self, model: str, options: dict[str, Any]) -> int | None:
        """Return how many tokens of a model's window the prompt may have."""
        window = self.window(model)
        if window is None:
            return None
        usual = min(window // ANSWER_SHARE, MOST_FOR_ANSWER)
        asked = options.get("max_completion_tokens") or options.get("max_tokens") or usual
        return max(1, window - min(asked, window // 2))

    def window(self, model: str) -> int | None:
        """Return how many tokens a model takes, as the operator, the service or a table says."""
        if self.args.context_window:
            return int(self.args.context_window)
        self._look()
        return self._windows.get(model) or _openai_windows.of_family(model)

    def _look(self) -> None:
        """See once what models the service has; OpenAI's list does not say what they take."""
        if self._is_openai or self.args.context_window or time.monotonic() < self._look_after:
            return
        if not self._looking.acquire(blocking=False):
            return  # another chat does
        try:
            self._look_after = time.monotonic() + LIST_AGAIN
            models = self.client.models(self.operator_key, LIST_SECONDS)
        except (Problem, ConnectionFailed) as problem:
            cause = clean(str(problem), self.operator_key.text)
            logger.warning("the service does not list its models yet: %s", cause)
        else:
            self._look_after = float("inf")
            self._windows = _openai_windows.of_list(models)
            self._compare([str(one.get("id")) for one in models])
        finally:
            self._looking.release()

    def _compare(self, names: list[str]) -> None:
        if names and self.args.model not in names:
            shown = ", ".join(names[:MOST_NAMED])
            logger.warning("the service lists no model %s, but: %s", self.args.model, shown)

    # -- the answer

    def stream(self, question: Question) -> Iterator[str]:
        """Ask the service; yield the answer's text and side notes."""
        return self.service.stream(question, self._count)

    def _count(self, read: int, written: int) -> None:
        self.count_tokens(read=read, written=written)


def _is_openai(base_url: str) -> bool:
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and (host == "openai.com" or host.endswith(".openai.com"))
