"""Bots as Kuwa's front end sends them: (name, args) of the wire to what a model is asked.

Each table is what the parsers of Multi-Chat 0.4 made of a bot file (0.3.4 differs where it says
so); the bot files are our own, with the shapes of those that Kuwa ships.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.chat.modelfile import Modelfile

Commands = list[tuple[str, str]]

# SYSTEM "Answer as a pirate." # "calm" works as well
# BEFORE-PROMPT "Translate to English: "
# AFTER-PROMPT """
#
# Answer in one line.
# """
# MESSAGE user "Hello there "
# MESSAGE assistant Fine.
PROMPTS = (
    [
        ("system", 'Answer as a pirate." # "calm" works as well'),
        ("before-prompt", "Translate to English: "),
        ("after-prompt", "\n\nAnswer in one line.\n"),
        ("message", 'user "Hello there "'),
        ("message", "assistant Fine."),
    ],
    {
        "override_system_prompt": "Answer as a pirate.",
        "before_prompt": "Translate to English: ",
        "after_prompt": "\n\nAnswer in one line.\n",
        "messages": [
            {"role": "user", "content": "Hello there "},
            {"role": "assistant", "content": "Fine."},
        ],
    },
)

# SYSTEM "Be kind."
#
# BEFORE-PROMPT Question:
#
# AFTER-PROMPT """Say "yes" or "no"."""
#
# TEMPLATE """
# <|user|>{{ .Prompt }}<|end|>
# """
BLANK_LINES = (
    [
        ("system", 'Be kind."\n'),
        ("before-prompt", "Question:\n"),
        ("after-prompt", 'Say "yes" or "no".'),
        ("template", "\n<|user|>{{ .Prompt }}<|end|>\n"),
    ],
    {
        "override_system_prompt": "Be kind.",
        "before_prompt": "Question:\n",
        "after_prompt": 'Say "yes" or "no".',
        "template": "\n<|user|>{{ .Prompt }}<|end|>\n",
    },
)

# Every line begins with PARAMETER in the bot file.
PARAMETERS = (
    [
        ("parameter", "llm_temperature 0.2 # low"),
        ("parameter", "llm_seed 7 #no space"),
        ("parameter", "llm_top_p   0.9\t# tabs"),
        ("parameter", 'speech_language "zh"#for auto-detection, set to None, "" or "auto"'),
        ("parameter", "speech_prompt None #nothing"),
        ("parameter", 'llm_stop "# end"'),
        ("parameter", "llm_model C#-coder"),
        ("parameter", "tool_template \"NAME 'x ({{file}})'\\nTEXT 'by \\\"me\\\"'\""),
        ("parameter", "tool_argv 'conv.py {{args}}'"),
        ("parameter", 'search_advanced "" # none'),
        ("parameter", "llm_enable_multimodal true"),
    ],
    {
        "parameters": {
            "llm_temperature": 0.2,
            "llm_seed": 7,
            "llm_top_p": 0.9,
            "speech_language": "zh",
            "speech_prompt": None,
            "llm_stop": "# end",
            "llm_model": "C#-coder",
            "tool_template": "NAME 'x ({{file}})'\\nTEXT 'by \\\"me\\\"'",
            "tool_argv": "conv.py {{args}}",
            "search_advanced": "",
            "llm_enable_multimodal": True,
        }
    },
)

# FROM .bot/My Bot
# INPUT-BOT ".bot/.default"
# INPUT-PREFIX /list
# OUTPUT-SUFFIX "Only the code. "
# SCRIPT "000I[PO]"
AGENT = (
    [
        ("from", ".bot/My Bot"),
        ("input-bot", ".bot/.default"),
        ("input-prefix", "/list"),
        ("output-suffix", "Only the code. "),
        ("script", "000I[PO]"),
    ],
    {
        "process_bot": ".bot/My Bot",
        "input_bot": ".bot/.default",
        "input_prefix": "/list",
        "output_suffix": "Only the code. ",
        "script": "I[PO]",
    },
)

# The same in 0.3.4, which knows none of these but FROM and adds their lines to it.
OLD_AGENT = (
    [("from", '.bot/My Bot\nINPUT-BOT ".bot/.default"\nINPUT-PREFIX /list')],
    {"process_bot": '.bot/My Bot\nINPUT-BOT ".bot/.default"\nINPUT-PREFIX /list'},
)

# SYSTEM """
# You are a tool.
# From now on answer in C# only. # really
# """
# A line that begins with a keyword ends the text, in the middle of a sentence or not.
KEYWORD_IN_TEXT = (
    [
        ("system", "\nYou are a tool."),
        ("from", 'now on answer in C# only. # really\n"""'),
    ],
    {
        "override_system_prompt": "\nYou are a tool.",
        "process_bot": 'now on answer in C# only. # really\n"""',
    },
)


@pytest.mark.parametrize(
    ("commands", "asked"),
    [
        pytest.param(*PROMPTS, id="prompts"),
        pytest.param(*BLANK_LINES, id="blank lines"),
        pytest.param(*PARAMETERS, id="parameters"),
        pytest.param(*AGENT, id="agent"),
        pytest.param(*OLD_AGENT, id="agent in 0.3.4"),
        pytest.param(*KEYWORD_IN_TEXT, id="keyword in a text"),
    ],
)
def test_a_bot_asks_for_what_its_author_wrote(commands: Commands, asked: dict[str, Any]) -> None:
    """What the table does not name is as in an empty Modelfile."""
    text = json.dumps([{"name": name, "args": args} for name, args in commands])
    assert vars(Modelfile.from_json(text)) == {**vars(Modelfile()), **asked}
