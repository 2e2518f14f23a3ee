"""The options of Kuwa's own executors: their command lines are accepted unchanged.

The names are those of the help texts of Kuwa 0.3.4 and 0.4, whose executors take many of them from
the signatures of their libraries. Nothing here needs a library.
"""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from backends.chatgpt import ChatgptExecutor
from backends.debug import DebugExecutor
from backends.dummy import DummyExecutor
from backends.geminipro import GeminiproExecutor
from backends.huggingface import HuggingfaceExecutor
from backends.llamacpp import LlamacppExecutor
from kuwa_min import LLMExecutor
from kuwa_min.options import general

Flag = tuple[str, Any]  # words of a command line, and what the option is then

GENERAL: list[Flag] = [
    ("--access_code a .bot/b", ["a", ".bot/b"]),
    ("--ignore_kernel", True),
    ("--https", True),
    ("--host 10.0.0.5", "10.0.0.5"),
    ("--port 9010", 9010),
    ("--executor_path /chat", "/chat"),
    ("--kernel_url http://127.0.0.1:9000/", "http://127.0.0.1:9000/"),
    ("--concurrent_req_limit 4", 4),
    ("--log debug", "DEBUG"),
]
PROMPT: list[Flag] = [("--system_prompt Kind.", "Kind."), ("--no_system_prompt", True)]
CONFIG: list[Flag] = [("-c x.yaml", "x.yaml"), ("--generation_config x.json", "x.json")]
LOCAL: list[Flag] = [
    *PROMPT,
    *CONFIG,
    ("--model_path some/model", "some/model"),
    ("--visible_gpu 0,1", "0,1"),
    ("--limit 3072", 3072),
    ("--override_chat_template {{x}}", "{{x}}"),
    ("--stop", []),
    ("--stop <|eot_id|>", ["<|eot_id|>"]),
    ("--stop a b --stop c", ["a", "b", "c"]),
]
CLOUD: list[Flag] = [
    *PROMPT,
    *CONFIG,
    ("--api_key sk-x", "sk-x"),
    ("--model m", "m"),
    ("--multimodal", True),
    ("--temperature 0.5", 0.5),
    ("--top_p 1", 1.0),
    ("--frequency_penalty -0.5", -0.5),
    ("--presence_penalty 0.5", 0.5),
]
DELAY: list[Flag] = [("--delay 0.02", 0.02)]
FLAGS: dict[type[LLMExecutor], list[Flag]] = {
    DebugExecutor: DELAY,
    DummyExecutor: DELAY,
    ChatgptExecutor: [
        *CLOUD,
        ("--use_third_party_api_key", True),
        ("--base_url https://integrate.api.nvidia.com/v1/", "https://integrate.api.nvidia.com/v1/"),
        ("--context_window 131072", 131072),
        ("--context_window 0", 0),
        ("--no_override_api_key", True),
        ("--max_completion_tokens 100", 100),
        ("--max_tokens 100", 100),
        ("--n 1", 1),
        ("--seed 7", 7),
        ("--top_logprobs 2", 2),
        ("--timeout 30", 30.0),
    ],
    GeminiproExecutor: [
        *CLOUD,
        ("--limit 30720", 30720),
        ("--candidate_count 1", 1),
        ("--max_output_tokens 100", 100),
        ("--top_k 40", 40),
    ],
    HuggingfaceExecutor: [
        *LOCAL,
        ("--timeout 60", 60.0),
        ("--load_8bits", True),
        ("--trust_remote_code", True),
        ("--tokenizer some/model", "some/model"),
        ("--processor some/model", "some/model"),
        ("--device_map auto", "auto"),
        ("--device_map cpu", "cpu"),
        ("--device_map 1", "cuda:1"),
        ('--device_map {"":0}', {"": 0}),
        ("--generation_kwargs", []),
        ("--generation_kwargs do_sample=true top_k=5", [("do_sample", "true"), ("top_k", "5")]),
    ],
    LlamacppExecutor: [
        *LOCAL,
        ("--ngl -1", -1),
        ("--context_window 4096", 4096),
        ("--max_tokens 100", 100),
        ("--max_tokens -1", -1),
        ("--temperature 0", 0.0),
        ("--top_p 0.95", 0.95),
        ("--min_p 0.05", 0.05),
        ("--typical_p 1.0", 1.0),
        ("--logprobs 2", 2),
        ("--frequency_penalty 0.0", 0.0),
        ("--presence_penalty 0.0", 0.0),
        ("--repeat_penalty 1.0", 1.0),
        ("--top_k 40", 40),
        ("--seed -1", -1),
        ("--tfs_z 1.0", 1.0),
        ("--mirostat_mode 2", 2),
        ("--mirostat_tau 5.0", 5.0),
        ("--mirostat_eta 0.1", 0.1),
    ],
}
DTYPES = {
    "auto": "auto",
    "fp32": "fp32",
    "float32": "float32",
    "fp16": "fp16",
    "float16": "float16",
    "bf16": "bf16",
    "bfloat16": "bfloat16",
}
CASES = [
    (kind, words, value) for kind, flags in FLAGS.items() for words, value in [*GENERAL, *flags]
]


def parse(kind: type[LLMExecutor], *words: str) -> argparse.Namespace:
    """Return the options of an executor with this command line."""
    parser = general.create_parser("prog", "")
    kind().extend_arguments(parser)
    needed = [] if kind not in (HuggingfaceExecutor, LlamacppExecutor) else ["--model_path", "m"]
    return parser.parse_args([*needed, *words])


def test_an_option_of_kuwas_is_taken() -> None:
    """In its type, under its name."""
    wanted = {(kind.__name__, words): (value, type(value)) for kind, words, value in CASES}
    taken = {(kind.__name__, words): value_of(kind, words) for kind, words, _ in CASES}
    assert len(wanted) == len(CASES)
    assert {row: (value, type(value)) for row, value in taken.items()} == wanted


def value_of(kind: type[LLMExecutor], words: str) -> Any:
    """Return the value of the option that these words give."""
    flag, *_ = words.split()
    name = "generation_config" if flag == "-c" else flag.removeprefix("--")
    return vars(parse(kind, *words.split()))[name]


@pytest.mark.parametrize("name", DTYPES)
def test_both_names_of_the_number_format_are_taken(name: str) -> None:
    """Kuwa's --torch_dtype and our --dtype are one option, with all of Kuwa's spellings."""
    assert parse(HuggingfaceExecutor, "--torch_dtype", name).dtype == DTYPES[name]
    assert parse(HuggingfaceExecutor, "--dtype", name).dtype == DTYPES[name]


@pytest.mark.parametrize("kind", FLAGS)
def test_a_whole_command_line_of_kuwas_is_taken(kind: type[LLMExecutor]) -> None:
    """All options at once."""
    parse(kind, *[word for words, _ in [*GENERAL, *FLAGS[kind]] for word in words.split()])


@pytest.mark.parametrize("value", ["", "[0]", "{0}"])
def test_a_device_map_that_is_none_is_one_line(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name or a JSON object."""
    with pytest.raises(SystemExit):
        parse(HuggingfaceExecutor, "--device_map", value)
    assert "a name or a JSON object is needed" in capsys.readouterr().err
