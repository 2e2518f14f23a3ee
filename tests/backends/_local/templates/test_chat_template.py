"""Chat templates: the text is transformers' own, and what cannot be written is one line."""

# ruff: noqa: E501 - the families' templates are that wide

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from backends._local.templates.chat_template import PLAIN, ChatTemplate, TemplateError
from tests.support.programs import ROOT

jinja2 = pytest.importorskip("jinja2", reason="templates are jinja2's")

Chat = list[dict[str, Any]]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

# Small templates that use what those of well-known families use.
FAMILIES = {
    "plain": PLAIN,
    "chatml": """\
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
""",
    "llama 2": """\
{% if messages[0]['role'] == 'system' %}
{% set said = messages[1:] %}{% set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' %}
{% else %}{% set said = messages %}{% set system = '' %}{% endif %}
{% for message in said %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.index0 == 0 else '') + message.content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' ~ message['content'] | trim ~ ' ' ~ eos_token }}{% endif %}
{% endfor %}""",
    "llama 3": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
""",
    "mistral": """\
{%- if messages[0]["role"] == "system" %}{%- set system = messages[0]["content"] %}
{%- set said = messages[1:] %}{%- else %}{%- set said = messages %}{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in said %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in said %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system is defined %}{{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- else %}{{- " " + message["content"] | trim + eos_token }}{%- endif %}
{%- endfor %}""",
    "gemma": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "phi 3": """\
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% else %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    "zephyr": """\
{% for message in messages %}\n{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}
{% else %}\n{{ '<|assistant|>\\n'  + message['content'] + eos_token }}\n{% endif %}
{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}
""",
    "command r": """\
{%- macro turn(role, text) -%}
    {%- macro token(name) %}{{ '<|' ~ name | upper ~ '_TOKEN|>' }}{% endmacro -%}
    {{ token('start_of_turn') ~ token(role) }}{{ caller() if caller else '' }}{{ text }}{{ token('end_of_turn') }}
{%- endmacro -%}
{%- set documents = documents or [] -%}
{{ bos_token }}
{%- for message in messages | rejectattr('role', 'equalto', 'tool') | list -%}
    {%- call turn({'user': 'user', 'assistant': 'chatbot'}.get(message.role, 'system'), message.content) %}#{{ message.role | length }} {% endcall %}
{%- endfor -%}
{%- if documents | length %}{{ documents | map(attribute='title') | join(', ') }}{% endif -%}
{{ turn('chatbot', '') | replace('<|END_OF_TURN_TOKEN|>', '') }}""",
    "deepseek r1": """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='', first=true) -%}
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = ns.system + message['content'] %}{%- endif %}{%- endfor %}
{{- bos_token ~ ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% set ns.first = false %}{%- endif %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{%- set content = message['content'] %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt and not ns.first %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}""",
    "qwen 3": """\
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if reasoning and loop.index0 > ns.last_query_index %}{{- '<think>' + reasoning + '</think>' }}{% endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}""",
    "gpt oss": """\
{%- macro shown(spec, indent=None) -%}
    {%- if spec is mapping -%}{{ spec | tojson(indent=indent) if indent else spec | tojson }}
    {%- elif spec is iterable and spec is not string -%}[{%- for one in spec -%}{{ shown(one) }}{{ ", " if not loop.last }}{%- endfor -%}]
    {%- else -%}{{ spec | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=True) }}{%- endif -%}
{%- endmacro -%}
{{- "<|start|>system<|message|>Current date: " ~ strftime_now("%Y年%m-%d") ~ "\\nReasoning: " ~ (reasoning_effort or "medium") ~ "<|end|>" }}
{%- for message in messages -%}
    {{- "<|start|>" ~ message.role ~ "<|message|>" ~ shown([message, message.content, dict(b=1, a='<é>')]) ~ shown(message, 2) ~ "<|end|>" }}
{%- endfor -%}
<|start|>assistant""",
    "generation tag": """\
{% for message in messages %}
{% set said = 'outside' %}
{% if message.role == 'assistant' %}
{{ message.role }}: {% generation %}
  {% set said = message.content %}
{{ said }}{{ loop.index }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ message.role }}: {{ message.content }}
{% endif %}
({{ said }})
{% endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}""",
    "loop controls": """\
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% if '世' in message.content %}stop{% break %}{% endif %}
{{ loop.index }}{{ (loop.previtem or {}).role }}{{ message.content }}
{% endfor %}
{{ dict.fromkeys(['a', 'b'], 1) }}{{ unk_token }}{{ pad_token }}{{ cls_token }}{{ documents }}{{ tools }}""",
    "an underscored namespace": "{% set ns = namespace(_hidden=1) %}{{ ns._hidden }}",
    "an underscored variable": "{% set ns = namespace(a=1) %}{% set ns._b = 1 %}{{ ns.a }}",
    "a namespace of its own": "{% set ns = namespace({'a': 1}, self=2) %}{{ ns.a }}{{ ns.self }}",
    "a missing name": "{{ messages[0].name.first }}",
    "a wrong sum": "{{ messages + 1 }}",
    "a mistake": "{% for message in messages %}{{ message.content }",
}
CHATS: dict[str, Chat] = {
    "one message": [{"role": "user", "content": " Hello "}],
    "system": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<b>&\"'\n世界 🎉"},
    ],
    "turns": [
        {"role": "system", "content": "Be\nbrief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n 2 "},
        {"role": "user", "content": "{{ eos_token }}</s>"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "\tand 2 + 2?\n"},
    ],
    "two users": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
}
REFUSALS = (jinja2.TemplateError, TypeError)
MORE: list[dict[str, Any]] = [
    {},
    {"enable_thinking": False, "date_string": "1 May 2030", "reasoning_effort": "high"},
    {"add_generation_prompt": False, "bos_token": "<bos>"},
    {"documents": [{"title": "A", "text": "é"}], "tools": [{"name": "t"}]},
]


@pytest.fixture(scope="module")
def library() -> Callable[..., str]:
    """Return how transformers itself writes a chat, or what it says to one that is refused."""
    transformers = pytest.importorskip("transformers", reason="it is what we compare with")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(NAMES.values())}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **NAMES)
    assert tokenizer.special_tokens_map == NAMES

    def write(source: str, chat: Chat, **more: Any) -> str:
        more = {"add_generation_prompt": True, **more}
        return str(
            tokenizer.apply_chat_template(chat, chat_template=source, tokenize=False, **more)
        )

    return write


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
@pytest.mark.parametrize("more", MORE, ids=lambda more: " ".join(more) or "no more")
@pytest.mark.parametrize("chat", CHATS.values(), ids=list(CHATS))
@pytest.mark.parametrize("source", FAMILIES.values(), ids=list(FAMILIES))
def test_the_text_is_the_librarys(
    library: Callable[..., str], source: str, chat: Chat, more: dict[str, Any]
) -> None:
    """Every character; and what it refuses, we refuse."""
    try:
        expected = library(source, chat, **more)
    except REFUSALS:
        with pytest.raises(TemplateError):
            ChatTemplate(source, **NAMES).render(chat, **more)
    else:
        assert ChatTemplate(source, **NAMES).render(chat, **more) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_the_families_are_mostly_written(library: Callable[..., str]) -> None:
    """A comparison of refusals alone would prove little."""
    written = {name for name, source in FAMILIES.items() if accepts(library, source)}
    assert set(FAMILIES) - written == {
        "an underscored namespace",
        "an underscored variable",
        "a missing name",
        "a wrong sum",
        "a mistake",
    }


def accepts(library: Callable[..., str], source: str) -> bool:
    """Tell whether the library writes a chat of one message with this template."""
    try:
        return bool(library(source, CHATS["one message"]))
    except REFUSALS:
        return False


# -- refusals


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('No system\nrole') }}", "No system"),
        ("a\nb {% for %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("{{ messages[0].name.first }}", "'dict object' has no attribute 'name'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ raise_exception('') }}", "TemplateError: "),
        ("{{ raise_exception('x' * 1000) }}", "x" * 200),
        ("{{ namespace(_a=1) }}", "a namespace cannot hold '_a'"),
        ("{% include 'file' %}", "TypeError: no loader for this environment specified"),
    ],
)
def test_a_refusal_is_one_short_line(source: str, reason: str) -> None:
    """The template's own words if it has any, else what is wrong with it."""
    with pytest.raises(TemplateError) as refused:
        ChatTemplate(source).render(CHATS["one message"])
    assert str(refused.value) == reason


def test_a_byte_order_mark_of_its_file_is_no_text() -> None:
    """It would be the first token of every prompt."""
    source = "\ufeff{{ messages[0].content }}\r\n\r\n\ufeff"
    assert ChatTemplate(source).render([{"role": "user", "content": "a"}]) == "a\n\n\ufeff"


def test_a_chat_is_not_changed() -> None:
    """A template has no way to."""
    chat = [{"role": "user", "content": "a"}]
    for source in ("{{ messages.append(1) }}", "{{ messages[0].update(role='system') }}"):
        with pytest.raises(TemplateError, match="is unsafe"):
            ChatTemplate(source).render(chat)
    assert chat == [{"role": "user", "content": "a"}]


def test_names_of_one_render_stay_with_it() -> None:
    """They come before the template's, which come back."""
    template = ChatTemplate("{{ bos_token }}{{ self_made }}", bos_token="<s>")
    assert template.render([], bos_token="<bos>", self_made="!") == "<bos>!"
    assert template.render([]) == "<s>"


def test_importing_it_does_not_load_jinja2() -> None:
    """What a backend's --help imports needs no library."""
    code = "import sys, backends._local.templates.chat_template; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
