"""[Cloud model] Google Gemini-Pro. Need API key."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Generator
from typing import Any

from backends._cloud import api_key
from backends._cloud.api_key import USER, Key
from backends._cloud.executor import CloudExecutor
from backends._cloud.request import CompletionRequest
from backends._http.origin import is_cleartext
from backends._media.file_types import ALL_TYPES
from kuwa_min import Modelfile
from kuwa_min.chat import catalog
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options import address, constraint, generation_options, types
from kuwa_min.options.generation_options import Option

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {"google.generativeai": "google-generativeai>=0.8.6"}
GOOGLE = "https://generativelanguage.googleapis.com"
NO_FIELD = "refused: Gemini takes JSON schemas only"
OPTIONS = (
    Option("candidate_count", int, None, "answers to compute; the first is shown", least=1),
    Option(
        "max_output_tokens",
        int,
        None,
        "longest answer in tokens",
        least=1,
        aliases=("max_tokens", "max_new_tokens"),
    ),
    Option("temperature", float, None, "how freely to draw; 0: take the likeliest", least=0),
    Option("top_p", float, None, "draw from this share of the tokens", least=0),
    Option("top_k", int, None, "draw from the k likeliest tokens", least=1),
    Option("presence_penalty", float, None, "avoid tokens that were said", least=-2),
    Option(
        "frequency_penalty", float, None, "avoid tokens the more, the more often said", least=-2
    ),
    Option("stop", list, None, "end an answer before these texts", aliases=("stop_sequences",)),
    constraint.SCHEMA_OPTION,
    *(one._replace(help=NO_FIELD) for one in constraint.OPTIONS[1:]),
)


class GeminiproExecutor(CloudExecutor):
    """Ask Google's Gemini, or a gateway at --api_endpoint."""

    access_code = "gemini-pro"
    table = OPTIONS
    key_variable = "GOOGLE_API_KEY"
    file_types = ALL_TYPES - {"image/gif"}  # which Gemini does not take

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the model, the endpoint and the longest prompt."""
        add = parser.add_argument_group("options of the model").add_argument
        add(
            "--model",
            default="gemini-3.8-flash",
            help="model of bots that name none as llm_model",
        )
        add(
            "--api_endpoint",
            type=address.web_address,
            default=GOOGLE,
            metavar="URL",
            help="service to ask; every key that a chat has is sent there",
        )
        add(
            "--limit",
            type=types.whole(1),
            default=30720,
            metavar="TOKENS",
            help="most tokens of a prompt, by a careful guess",
        )
        super().extend_arguments(parser)
        parser.set_defaults(system_prompt="")

    def library(self) -> generation_options.Library:
        """Return the parameters that the service takes beyond the table."""
        from . import client

        return client.library()

    def connect(self) -> None:
        """Create the client; the service need not be reachable yet."""
        from . import client
        from .completion import Completions

        endpoint: str = self.args.api_endpoint.rstrip("/")
        try:
            wanted = constraint.take_constraint(dict(self.settings), {})
            client.generation_config(self.settings, wanted)
        except client.InvalidOption as error:
            raise UsageError(f"--{error}: the service takes no such value") from None
        self.client = client.Client(endpoint)
        self.completions = Completions(self.client)
        if is_cleartext(endpoint):
            logger.warning("keys go to %s unencrypted: it is no https address", endpoint)
        self.describe(service=endpoint, model=self.args.model, limit=self.args.limit)

    def key(self, modelfile: Modelfile) -> Key:
        """Return the user's key, else the operator's; raises AnswerError if there is none."""
        users = api_key.from_form(modelfile.parameters.get("_google_token"), USER)
        chosen = users if users.text else self.operator_key
        if not chosen.text:
            raise AnswerError(catalog.NO_GOOGLE_KEY)
        if not api_key.is_valid(chosen.text):
            raise AnswerError(catalog.BAD_GOOGLE_KEY)
        return chosen

    def prompt_limit(self, model: str, options: dict[str, Any]) -> int | None:
        """Return the operator's limit, whatever the model."""
        return int(self.args.limit)

    def stream(self, request: CompletionRequest) -> Generator[str, None, None]:
        """Send a request; yield the answer's text and side notes."""
        return self.completions.stream(request, self.count_usage)
