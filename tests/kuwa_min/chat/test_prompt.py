"""What a model is given: composed of history, Modelfile and system prompt, cut to what fits."""

from __future__ import annotations

import copy
import json

import pytest

from kuwa_min.chat import catalog
from kuwa_min.chat.catalog import NO_INPUT, TOO_LONG
from kuwa_min.chat.modelfile import Modelfile
from kuwa_min.chat.prompt import (
    Prompt,
    begin_with_user,
    compose,
    fit,
    fold_system,
    merge_consecutive,
    without_our_sentences,
)
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import UNEXPECTED, AnswerError
from kuwa_min.options import generation_options
from kuwa_min.options.generation_options import Option

History = list[dict[str, str]]


def user(text: str) -> dict[str, str]:
    """Return a user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """Return what the model said."""
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    """Return what the operator or the bot's author said."""
    return {"role": "system", "content": text}


# -- what a model reads


def modelfile(**commands: str) -> Modelfile:
    """Return a Modelfile with these commands."""
    entries = [{"name": name.replace("_", "-"), "args": text} for name, text in commands.items()]
    return Modelfile.from_json(json.dumps(entries))


def words(chat: History) -> int:
    """Count the words of a chat, which stand for tokens."""
    return sum(len(message["content"].split()) for message in chat)


def test_a_prompt_is_system_examples_and_history() -> None:
    """The author's prompts stand around the last message only, and nothing is changed."""
    history = [user("1"), assistant("2"), user("3")]
    before = copy.deepcopy(history)
    asked = modelfile(system="S", message='user "u"', before_prompt='"<"', after_prompt='">"')
    prompt = compose(history, asked, "operator")
    assert prompt == Prompt("S", [user("u")], [user("1"), assistant("2"), user("<3>")])
    assert history == before


def test_the_operators_system_prompt_is_for_bots_without_one() -> None:
    """The bot's author wins."""
    assert compose([user("1")], modelfile(), "operator").system == "operator"
    assert compose([user("1")], modelfile(system="author"), "operator").system == "author"
    assert compose([user("1")], modelfile()).system == ""


def test_a_clients_system_message_is_added_to_the_system_prompt() -> None:
    """It stays however much of the chat has to go, and templates see one system message."""
    history = [system("client"), user("1"), assistant("2"), user("3")]
    asked = modelfile(system="author")
    assert compose(history, asked, "operator").system == "author\n\nclient"
    assert compose([system("a"), system("b"), user("1")], modelfile()).system == "a\n\nb"
    assert compose([system(""), user("1")], modelfile(), "operator").system == "operator"
    kept = fit(compose(history, modelfile()), length=words, limit=2)
    assert kept == [system("client"), user("3")]


@pytest.mark.parametrize(
    "history",
    [[], [user("")], [user(" \n")], [system("1")], [user("1"), assistant("2")], [assistant("1")]],
)
def test_without_a_question_there_is_a_sentence(history: History) -> None:
    """The user reads it instead of a model's guess."""
    with pytest.raises(AnswerError) as refused:
        compose(history, modelfile())
    assert str(refused.value) == NO_INPUT


def test_a_prompt_of_the_author_is_a_question() -> None:
    """The user need not write anything."""
    assert compose([user("")], modelfile(before_prompt='"Tell a joke."')).history == [
        user("Tell a joke.")
    ]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Paris.", "Paris."),
        (f"Par{UNEXPECTED}", "Par"),
        (UNEXPECTED, None),
        (TOO_LONG, None),
        (f"Par\n[ERROR] {UNEXPECTED}", "Par"),  # as the front end of 0.4 shows a log line
        (f"\n[ERROR] {UNEXPECTED}", None),
        (f"[WARNING] {TOO_LONG}\n", None),
        ("\n[INFO] [The option is yours.]", "\n[INFO] [The option is yours.]"),
        ("a\n[ERROR] disk full", "a\n[ERROR] disk full"),
        (f"{NO_INPUT}\n", None),
        (f"\n{catalog.STOPPED}", None),
        (" \n", None),
        (f"Paris is\n{SIDE_NOTE.format(catalog.CUT_SHORT)}", "Paris is"),
        ("a\n<<<WARNING>>>one\ntwo<<</WARNING>>>b<<<WARNING>>>c<<</WARNING>>>", "ab"),
        ("<<<WARNING>>>note<<</WARNING>>>", None),
        ("[The model ran out of memory for this chat; a shorter one may fit.]", None),
        (
            "[Please enter your OpenAI API Token in the user settings on the website in order to "
            "use the model.]",
            None,
        ),
        (
            "[Invalid OpenAI API Token, please check if the OpenAI API Token is correct.]",
            None,
        ),
        (f"I say '{UNEXPECTED}' when I fail.", f"I say '{UNEXPECTED}' when I fail."),
        ("[The option is yours.]", "[The option is yours.]"),
        ("[The model's chat template does not accept this chat.]", None),
        ("a <<<WARNING>>> b", "a <<<WARNING>>> b"),
        ("a<<<WARNING>>>b<<<WARNING>>>c<<</WARNING>>>d", "a<<<WARNING>>>bd"),
    ],
)
def test_a_model_does_not_read_our_own_words_as_its_own(said: str, left: str | None) -> None:
    """Error sentences at the end and side notes go; an answer of nothing else goes entirely."""
    kept = without_our_sentences([user(said), assistant(said), user("so?")])
    middle = [] if left is None else [assistant(left)]
    assert kept == [user(said), *middle, user("so?")]


def test_the_sentence_about_an_impossible_option_is_ours() -> None:
    """As the option tables word it."""
    with pytest.raises(AnswerError) as refused:
        generation_options.for_request((Option("n", int, 1, ""),), {}, {"n": "x"})
    assert without_our_sentences([assistant(str(refused.value))]) == []


def test_a_question_that_failed_is_asked_with_the_next_one() -> None:
    """Turns alternate, whatever was taken out."""
    history = [user("I am Bob"), assistant(UNEXPECTED), user("who am I?")]
    assert compose(history, modelfile()).history == [user("I am Bob\n\nwho am I?")]


def test_neighbours_of_one_role_become_one_message() -> None:
    """The others stay as they are."""
    chat = [user("1"), user("2"), assistant("3"), assistant("4"), user("5")]
    assert merge_consecutive(chat) == [user("1\n\n2"), assistant("3\n\n4"), user("5")]
    assert merge_consecutive([]) == []


def test_a_system_prompt_can_stand_in_the_first_message() -> None:
    """For templates that refuse the role; what has none stays."""
    assert fold_system([system("s"), user("1"), assistant("2")]) == [user("s\n\n1"), assistant("2")]
    assert fold_system([user("1"), assistant("2")]) == [user("1"), assistant("2")]
    assert fold_system([system("s"), user(""), assistant("2")]) == [user("s"), assistant("2")]


def test_examples_begin_with_the_user() -> None:
    """Who says nothing, where the author lets the assistant begin."""
    assert begin_with_user([assistant("1"), user("2")]) == [user(""), assistant("1"), user("2")]
    assert begin_with_user([user("1")]) == [user("1")]
    assert begin_with_user([]) == []


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (99, ["s s", "e", "e", "1", "2", "3", "4 4", "5 5"]),
        (11, ["s s", "e", "e", "1", "2", "3", "4 4", "5 5"]),
        (10, ["s s", "e", "e", "3", "4 4", "5 5"]),
        (9, ["s s", "e", "e", "3", "4 4", "5 5"]),
        (8, ["s s", "e", "e", "5 5"]),
        (6, ["s s", "e", "e", "5 5"]),
        (5, ["s s", "5 5"]),
        (4, ["s s", "5 5"]),
    ],
)
def test_the_oldest_exchanges_go_until_it_fits(limit: int, kept: list[str]) -> None:
    """History first, the author's examples last; the system prompt and the question stay."""
    history = [user("1"), assistant("2"), user("3"), assistant("4 4"), user("5 5")]
    prompt = Prompt("s s", [user("e"), assistant("e")], history)
    chat = fit(prompt, length=words, limit=limit)
    assert [message["content"] for message in chat] == kept
    assert chat[0] == system("s s")


def test_a_question_that_is_too_long_alone_is_one_sentence() -> None:
    """Nothing of it can be left out."""
    with pytest.raises(AnswerError) as refused:
        fit(Prompt("s", [], [user("1 2 3")]), length=words, limit=3)
    assert str(refused.value) == TOO_LONG


def test_a_long_chat_is_measured_only_a_few_times() -> None:
    """Rendering and counting a long chat takes its time."""
    history = [message for _ in range(500) for message in (user("a b"), assistant("c"))]
    measured: list[int] = []

    def length(chat: History) -> int:
        measured.append(len(chat))
        return words(chat)

    chat = fit(Prompt("", [], [*history, user("d")]), length=length, limit=100)
    assert words(chat) == 100
    assert chat[0]["role"] == "user"
    assert len(measured) <= 10


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000 + "x",
        "<<<WARNING>>>" * 100_000,
        "[The option llm_" * 100_000,
        "Error occurred. " * 100_000,
    ],
)
def test_long_untrusted_texts_take_no_time(text: str) -> None:
    """No search goes through them more than once."""
    assert without_our_sentences([assistant(text)])[0]["content"].strip() == text.strip()


def test_very_many_messages_take_no_time() -> None:
    """Whether they are turns or neighbours."""
    neighbours = [user("a")] * 100_000
    assert len(merge_consecutive(neighbours)) == 1
    turns = [user("a"), assistant("b")] * 50_000
    chat = fit(Prompt("", [], [*turns, user("c")]), length=words, limit=9)
    assert words(chat) == 9


def test_without_a_system_prompt_there_is_no_such_message() -> None:
    """Many templates refuse an empty one."""
    assert fit(Prompt("", [], [user("1")]), length=words, limit=9) == [user("1")]
