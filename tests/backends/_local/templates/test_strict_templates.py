"""Templates of every class render what Kuwa sends: nothing is refused, lost or behind a default."""

# ruff: noqa: E501 - templates are that wide

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import pytest

from backends._local.executor import ModelExecutor
from backends._local.scheduler import SerialScheduler
from backends._local.templates.chat_template import ChatTemplate
from kuwa_min import Modelfile
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.thinking.formats import Wrappers
from kuwa_min.chat.thinking.splitter import ThoughtSplitter
from kuwa_min.options.generation_options import Option
from kuwa_min.options.thinking import LOCAL_OPTIONS
from kuwa_min.progress import Progress
from tests.support import local_chats
from tests.support.models.byte_tokenizer import ByteTokenizer

jinja2 = pytest.importorskip("jinja2", reason="templates are jinja2's")

TABLE = (
    Option("stop", list, None, ""),
    Option("stop_token_ids", list[int], None, ""),
    *LOCAL_OPTIONS,
)
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
DEFAULT = "You are a default."
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
REST = "{% set messages = messages[1:] if messages[0].role == 'system' else messages %}"


class Kind(NamedTuple):
    """A class of templates: the source, and how a system prompt must reach it."""

    source: str
    folded: bool = False  # into the user's first message, by us
    parts: bool = False  # contents as lists of parts


KINDS = {
    "inserts a default": Kind(
        "{% if messages[0].role != 'system' %}<system>" + DEFAULT + "</s>{% endif %}" + TURNS
    ),
    "inserts a long default with the date": Kind(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% else %}"
        "{% set s = '" + DEFAULT * 30 + "' ~ strftime_now('%Y') %}{% endif %}<system>{{ s }}</s>"
        "{% if tools is not none %}{{ tools | tojson }}{% endif %}" + REST + TURNS
    ),
    "appends to a default": Kind(
        "<system>{{ '"
        + DEFAULT
        + "' if messages[0].role != 'system' else 'Rules. ' ~ messages[0].content }}</s>"
        + REST
        + TURNS
    ),
    "refuses a system role": Kind(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + ALTERNATING
        + TURNS,
        folded=True,
    ),
    "knows user and assistant only": Kind(
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
        + TURNS,
        folded=True,
    ),
    "counts the system prompt as a turn": Kind(ALTERNATING + TURNS, folded=True),
    "ignores a system role": Kind(
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>",
        folded=True,
    ),
    "ignores it and has a default": Kind(
        "<system>" + DEFAULT + "</s>{% for m in messages if m.role != 'system' %}"
        "<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>",
        folded=True,
    ),
    "folds it itself": Kind(
        "{% set s = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}"
        + REST
        + ALTERNATING
        + "{% for m in messages %}<{{ m.role }}>{{ s if loop.first }}{{ m.content | trim }}</s>{% endfor %}<assistant>"
    ),
    "writes it before the last question": Kind(
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        + REST
        + ALTERNATING
        + "{% for m in messages %}<{{ m.role }}>{{ s if loop.last }}{{ m.content }}</s>{% endfor %}<assistant>"
    ),
    "wants the user first": Kind(
        REST
        + "{% if messages[0].role != 'user' %}{{ raise_exception('Start with the user') }}{% endif %}"
        "{{ bos_token }}" + TURNS,
        folded=True,
    ),
    "takes parts only": Kind(
        "{% if messages[0].role != 'system' %}<system>" + DEFAULT + "</s>{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
        "{% endfor %}</s>{% endfor %}<assistant>",
        parts=True,
    ),
    "fails without parts": Kind(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content[0]['text'].strip() }}</s>{% endfor %}<assistant>",
        folded=True,
        parts=True,
    ),
    "takes both": Kind(
        "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endif %}</s>{% endfor %}<assistant>"
    ),
}


class Model:
    """What an executor needs of a model; a token is a byte."""

    context_length, vocabulary_size = 10_000, 256
    markup: ClassVar[dict[int, str]] = {}
    turn_markers = ()

    def __init__(self, source: str) -> None:
        self.chat_template = ChatTemplate(source, **NAMES)
        self.special_tokens, self.tokenizer = NAMES, ByteTokenizer()
        self.template_variables = self.chat_template.variables

    def create_splitter(self, prompt_ids: Sequence[int], wrappers: Wrappers) -> ThoughtSplitter:
        """Return one for a model without thoughts."""
        return ThoughtSplitter()

    def info(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Executor(ModelExecutor):
    """An executor that renders prompts and computes nothing."""

    source = ""

    def loader(self) -> Callable[[], Model]:
        """Return what makes a model with the template of the class."""
        return lambda: Model(self.source)

    def create_scheduler(self, slots: int) -> SerialScheduler:
        """Return a scheduler that does nothing."""
        return SerialScheduler(lambda request: None)


Prompt = Callable[..., str]


@pytest.fixture
def prompts_of(load: Any) -> Callable[..., Prompt]:
    """Give what makes, of a template and a system prompt, what renders prompts of requests."""

    def make(source: str, system: str = "") -> Prompt:
        kind = type("Loaded", (Executor,), {"source": source, "table": TABLE})
        executor = load(kind, "--limit", "9000", "--system_prompt", system).executor

        def prompt(history: list[Message], *messages: str) -> str:
            entries = [{"name": "message", "args": text} for text in messages]
            modelfile = Modelfile.from_json(json.dumps(entries))
            return bytes(executor.create_request(history, modelfile).prompt_ids).decode()

        return prompt

    return make


SYSTEM = "Answer in verse."
SAID = ("one", "two", "three")


def messages(kind: Kind, *said: str, system: str = "") -> list[dict[str, Any]]:
    """Return the messages that a template of this kind must be given."""
    chat: list[dict[str, Any]] = [*local_chats.chat(*said)]
    if system and kind.folded:
        chat[0] = {"role": "user", "content": f"{system}\n\n{said[0]}"}
    elif system:
        chat = [{"role": "system", "content": system}, *chat]
    if kind.parts:
        chat = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in chat]
    return chat


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_system_prompt_stands_in_place_of_the_default_one(
    prompts_of: Callable[..., Prompt], kind: Kind
) -> None:
    """In front of what the user says, which is all there as well."""
    text = prompts_of(kind.source, SYSTEM)(local_chats.chat(*SAID))
    assert text.count(SYSTEM) == 1
    assert DEFAULT not in text or kind.folded
    places = [text.index(said) for said in SAID]
    assert places == sorted(places)
    assert text.index(SYSTEM) < places[-1]


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_without_a_system_prompt_the_default_one_stands(
    prompts_of: Callable[..., Prompt], kind: Kind
) -> None:
    """It is the template's affair."""
    text = prompts_of(kind.source)(local_chats.chat(*SAID))
    assert (DEFAULT in text) is (DEFAULT in kind.source)
    assert SYSTEM not in text
    assert all(text.count(said) == 1 for said in SAID)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("system", ["", SYSTEM])
def test_examples_may_begin_with_the_assistant(
    prompts_of: Callable[..., Prompt], kind: Kind, system: str
) -> None:
    """The user then says nothing first, and no strict template refuses the chat."""
    text = prompts_of(kind.source, system)(
        local_chats.chat("so?"), "assistant Ahoy!", "user a", "user b"
    )
    assert text.index("<user>") < text.index("Ahoy!") < text.index("a\n\nb\n\nso?")
    assert text.count(SYSTEM) == bool(system)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_whatever_kuwa_sends_is_written_whole(
    prompts_of: Callable[..., Prompt], kind: Kind
) -> None:
    """Neighbours of one role, nothing said, answers in front: no chat is refused for its form."""
    rng = random.Random(1)
    renders = [prompts_of(kind.source, system) for system in ("", SYSTEM)]
    for _ in range(20):
        roles = rng.choices(("user", "assistant"), k=rng.randint(0, 6))
        chat = [
            {"role": role, "content": rng.choice(("", f"[{n}]"))} for n, role in enumerate(roles)
        ]
        examples = [
            f"{role} {rng.choice((chr(34) * 2, f'({n})'))}"
            for n, role in enumerate(rng.choices(("user", "assistant"), k=rng.randint(0, 3)))
        ]
        text = rng.choice(renders)([*chat, {"role": "user", "content": "so?"}], *examples)
        begun = next((n for n, role in enumerate([*roles, "user"]) if role == "user"))
        said = [one["content"] for one in chat[begun:]]
        assert all(text.count(one) == 1 for one in said if one)
        assert all(text.count(one.split()[1]) == 1 for one in examples if "(" in one)
        assert text.endswith("so?</s><assistant>")


@pytest.fixture(scope="module")
def library() -> Callable[..., str]:
    """Return how transformers itself writes messages."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers", reason="it is what we compare with")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **NAMES)

    def write(source: str, chat: list[dict[str, Any]]) -> str:
        options = {"chat_template": source, "tokenize": False, "add_generation_prompt": True}
        return str(tokenizer.apply_chat_template(chat, **options))

    return write


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
@pytest.mark.parametrize("system", ["", SYSTEM, "世界" * 200])
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_prompt_is_the_librarys(
    prompts_of: Callable[..., Prompt], library: Callable[..., str], kind: Kind, system: str
) -> None:
    """Of the same messages, to the letter."""
    for said in (SAID, ("a",), ("<b>&'", " x ", "\ty\n")):
        expected = library(kind.source, messages(kind, *said, system=system))
        assert prompts_of(kind.source, system)(local_chats.chat(*said)) == expected


def carried() -> dict[str, str]:
    """Return the templates of well-known models that the libraries carry."""
    from llama_cpp import llama_chat_format
    from transformers.models.llama4 import processing_llama4
    from transformers.models.smolvlm import processing_smolvlm

    found = {
        "llama 4": processing_llama4.chat_template,
        "smolvlm": processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
    }
    for name, value in vars(llama_chat_format).items():
        source = value if name.endswith("_TEMPLATE") else getattr(value, "CHAT_FORMAT", None)
        if isinstance(source, str) and "{%" in source:
            found[name] = source
    return found


def kind_of(source: str, library: Callable[..., str]) -> Kind:
    """Tell what a template is given, by what the library writes with it."""

    def takes(kind: Kind, text: str, **more: str) -> bool:
        try:
            return text in library(source, messages(kind, "a question", **more))
        except (jinja2.TemplateError, TypeError):
            return False

    parts = not takes(Kind(source), "a question")
    folded = not takes(Kind(source, parts=parts), SYSTEM, system=SYSTEM)
    return Kind(source, folded, parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_prompts_of_well_known_models_are_the_librarys(
    prompts_of: Callable[..., Prompt], library: Callable[..., str]
) -> None:
    """Of the same messages; nothing is lost where a template refuses or ignores what is usual."""
    pytest.importorskip("llama_cpp", reason="it carries some templates")
    kinds = {name: kind_of(source, library) for name, source in carried().items()}
    assert len(kinds) > 8
    assert {kind.folded for kind in kinds.values()} == {False, True}
    for kind in kinds.values():
        for system in ("", SYSTEM):
            expected = library(kind.source, messages(kind, *SAID, system=system))
            assert prompts_of(kind.source, system)(local_chats.chat(*SAID)) == expected
            assert expected.count(SYSTEM) == bool(system)


def test_the_check_of_a_model_is_a_phase_of_its_own(load: Any) -> None:
    """At /status it is 99 % while the scheduler is made, which tries the model."""
    seen: list[tuple[str, int]] = []

    class Checking(Executor):
        source, table = "{{ messages[0].content }}", TABLE

        def loader(self) -> Callable[[], Model]:
            self.progress("loading ./model")(10, 10)
            return super().loader()

        def progress(self, what: str) -> Progress:
            self.task = super().progress(what)
            return self.task

        def create_scheduler(self, slots: int) -> SerialScheduler:
            seen.append((self.task.title, self.task.percent()))
            return super().create_scheduler(slots)

    load(Checking, "--limit", "9000")
    assert seen == [("checking the model", 99)]
