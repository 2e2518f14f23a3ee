"""[Cloud model] OpenAI ChatGPT. Need API key."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

from backends._cloud import api_key
from backends._cloud.api_key import NO_KEY, THIRD_PARTY, USER, Key
from backends._cloud.errors import redact
from backends._cloud.executor import CloudExecutor
from backends._cloud.request import CompletionRequest
from backends._http.origin import is_cleartext
from backends._http.transport_errors import ConnectionFailed
from kuwa_min import Modelfile
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import Piece
from kuwa_min.chat.thinking.display import NOTE
from kuwa_min.errors import AnswerError, StartError
from kuwa_min.options import address, constraint, generation_options, types
from kuwa_min.options.generation_options import Option
from kuwa_min.options.thinking import (
    REASONING_EFFORT,
    TEMPLATE_KWARGS,
    THINKING,
    THINKING_TOKENS,
)

from .context_window import from_model_list, from_model_name
from .error_response import ErrorResponse
from .errors import bad_key_sentence

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {"openai": "openai>=2.0"}
OPENAI = "https://api.openai.com/v1"
# Tokens of the context window that are kept for the answer: an eighth, but at most 4096.
ANSWER_SHARE, MAX_ANSWER_TOKENS = 8, 4096
LIST_TIMEOUT = 5.0  # seconds that a service has to list its models
LIST_RETRY_AFTER = 60.0  # seconds
MAX_NAMED = 5  # models that a line of the log names
OPTIONS = (
    Option("temperature", float, 0.5, "how freely to draw; 0: take the likeliest", least=0),
    Option("top_p", float, None, "draw from this share of the tokens", least=0),
    Option("max_tokens", int, None, "longest answer in tokens", least=1),
    Option("max_completion_tokens", int, None, "the same, with the thinking before it", least=1),
    Option(
        "frequency_penalty", float, None, "avoid tokens the more, the more often said", least=-2
    ),
    Option("presence_penalty", float, None, "avoid tokens that were said", least=-2),
    Option("seed", int, None, "seed of the draw; None: another one each time"),
    Option("n", int, None, "answers to compute; the first is shown", least=1),
    Option("top_logprobs", int, None, "compute this many alternatives; none are shown", least=0),
    Option(
        "timeout", float, None, "seconds without a byte before an answer is given up", least=0.1
    ),
    Option("stop", list, None, "end an answer before these texts"),
    REASONING_EFFORT,
    Option("verbosity", str, None, "how much to say: low, medium, high"),
    Option("service_tier", str, None, "how soon the service is to answer"),
    Option("top_k", int, None, "draw from the k likeliest tokens; not at OpenAI", least=-1),
    Option("min_p", float, None, "least share of the likeliest; not at OpenAI", least=0),
    Option("repetition_penalty", float, None, "avoid what was said; not at OpenAI", least=0),
    constraint.SCHEMA_OPTION,
    *(one._replace(help=f"{one.help}; not at OpenAI") for one in constraint.OPTIONS[1:]),
    THINKING,
    TEMPLATE_KWARGS._replace(help="variables of the server's chat template; not at OpenAI"),
    THINKING_TOKENS._replace(help="no effect: services have no common name for it"),
)
NO_LIMIT = (
    "thinking_tokens has no effect: services that speak OpenAI's protocol have no common name for "
    "it; what yours calls it may stand in a -c file, under extra_body"
)


class ChatgptExecutor(CloudExecutor):
    """Ask OpenAI, or a server that speaks its protocol: vLLM, SGLang, llama-server, Ollama, ..."""

    access_code = "chatgpt"
    table = OPTIONS
    key_variable = "OPENAI_API_KEY"

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the service, its model, the API keys and the context window."""
        add = parser.add_argument_group("options of the model").add_argument
        add("--base_url", type=address.web_address, default=OPENAI, help="URL of the service")
        add("--model", default="gpt-4o", help="model of bots that name none as llm_model")
        add(
            "--context_window",
            type=types.whole(0),
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
        add(
            "--show_reasoning",
            dest=THINKING.name,
            action="store_const",
            const=NOTE,
            default=argparse.SUPPRESS,
            help="the same as --thinking note",
        )
        super().extend_arguments(parser)

    def library(self) -> generation_options.Library:
        """Return the parameters that the SDK takes beyond the table."""
        from .options import library

        return library()

    def connect(self) -> None:
        """Create the client, and list the service's models if it is reachable."""
        from .client import Client
        from .completion import Completions

        base_url = self.args.base_url = _without_path(self.args.base_url)
        self._is_openai = _is_openai(base_url)
        self._listing = threading.Lock()
        self._context_windows: dict[str, int] = {}  # by model, as the service lists them
        self._list_at = 0.0  # time.monotonic() from which on the models may be listed again
        try:
            self.client = Client(base_url)
        except (OSError, ValueError) as error:  # certificates that cannot be read
            raise StartError(f"no connection to {base_url} can be made: {error}") from None
        defaults = {option.name: option.default for option in OPTIONS}
        self.completions = Completions(self.client, defaults)
        self._warn_of_plain_http()
        self._list_models()
        model = self.args.model
        self.describe(service=base_url, model=model, context_window=self.context_window(model))

    def _warn_of_plain_http(self) -> None:
        if self.operator_key.text and is_cleartext(self.args.base_url):
            host = urlsplit(self.args.base_url).hostname
            logger.warning("the key goes to %s unencrypted: it is no https address", host)

    # -- whose key

    def key(self, modelfile: Modelfile) -> Key:
        """Return the user's key, or the operator's; raises AnswerError if one is missing."""
        chosen = self._users_key(modelfile)
        if not chosen.text or (self.args.no_override_api_key and self.operator_key.text):
            chosen = self.operator_key
        if not chosen.text and (self.args.use_third_party_api_key or self._is_openai):
            third_party = self.args.use_third_party_api_key
            raise AnswerError(catalog.NO_THIRD_PARTY_KEY if third_party else catalog.NO_OPENAI_KEY)
        if not api_key.is_valid(chosen.text):
            raise AnswerError(bad_key_sentence(chosen))
        return chosen

    def _users_key(self, modelfile: Modelfile) -> Key:
        """Return the key that came with the chat, if it may be sent to this service."""
        if self.args.use_third_party_api_key:
            return api_key.from_form(modelfile.parameters.get("_third_party_token"), THIRD_PARTY)
        if self._is_openai or self.args.send_openai_token:
            return api_key.from_form(modelfile.parameters.get("_openai_token"), USER)
        return NO_KEY

    # -- the context window

    def prompt_limit(self, model: str, options: dict[str, Any]) -> int | None:
        """Return the tokens of a model's context window that are not kept for the answer."""
        window = self.context_window(model)
        if window is None:
            return None
        usual = min(window // ANSWER_SHARE, MAX_ANSWER_TOKENS)
        asked = options.get("max_completion_tokens") or options.get("max_tokens") or usual
        return max(1, window - min(asked, window // 2))

    def context_window(self, model: str) -> int | None:
        """Return a model's context window, as the operator, the service or a table says."""
        if self.args.context_window:
            return int(self.args.context_window)
        self._list_models()
        return self._context_windows.get(model) or from_model_name(model)

    def _list_models(self) -> None:
        """Read the service's list of models once; OpenAI's has no context windows."""
        if self._is_openai or self.args.context_window or time.monotonic() < self._list_at:
            return
        if not self._listing.acquire(blocking=False):
            return  # another chat's thread does
        try:
            self._list_at = time.monotonic() + LIST_RETRY_AFTER
            models = self.client.list_models(self.operator_key, LIST_TIMEOUT)
        except (ErrorResponse, ConnectionFailed) as error:
            cause = redact(str(error), self.operator_key.text)
            logger.warning("the service does not list its models yet: %s", cause)
        else:
            self._list_at = float("inf")
            self._context_windows = from_model_list(models)
            self.completions.service = _owner(models)
            self._warn_if_missing([str(one.get("id")) for one in models])
        finally:
            self._listing.release()

    def _warn_if_missing(self, names: list[str]) -> None:
        if names and self.args.model not in names:
            shown = ", ".join(names[:MAX_NAMED])
            logger.warning("the service lists no model %s, but: %s", self.args.model, shown)

    # -- the answer

    def stream(self, request: CompletionRequest) -> Generator[Piece, None, None]:
        """Send a request; yield the answer's text, side notes and progress."""
        if request.options[THINKING_TOKENS.name] is not None:
            generation_options.warn_once(NO_LIMIT)
        return self.completions.stream(request, self.count_usage)


def _owner(models: list[dict[str, Any]]) -> str:
    """Return the owner of a service's first model, which often names the server: "vllm"."""
    return str(models[0].get("owned_by") or "").lower() if models else ""


def _without_path(url: str) -> str:
    """Return a base URL without the path of chats, with which services name it."""
    return url.rstrip("/").removesuffix("/chat/completions")


def _is_openai(base_url: str) -> bool:
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    return parts.scheme == "https" and (host == "openai.com" or host.endswith(".openai.com"))
