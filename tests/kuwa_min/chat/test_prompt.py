"""What a model is given: composed of history, Modelfile and system prompt."""

from __future__ import annotations

import copy
import json

import pytest

from kuwa_min.chat import catalog
from kuwa_min.chat.catalog import NO_INPUT, TOO_LONG
from kuwa_min.chat.modelfile import Modelfile
from kuwa_min.chat.prompt import (
    Prompt,
    assemble,
    begin_with_user,
    compose,
    fold_system,
    merge_consecutive,
    without_our_sentences,
)
from kuwa_min.chat.sentence import CHINESE, ENGLISH
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import UNEXPECTED, AnswerError
from kuwa_min.options import generation_options
from kuwa_min.options.generation_options import Option

from .messages import History, assistant, system, user

# -- what a model reads


def modelfile(**commands: str) -> Modelfile:
    """Return a Modelfile with these commands."""
    entries = [{"name": name.replace("_", "-"), "args": text} for name, text in commands.items()]
    return Modelfile.from_json(json.dumps(entries))


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
    assert assemble(compose(history, modelfile()), [], 2) == [system("client"), user("3")]


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


@pytest.mark.parametrize("language", [ENGLISH, CHINESE])
def test_a_question_that_was_too_long_is_not_asked_with_the_next_one(language: str) -> None:
    """It would be too long again, as would all that follow in this chat."""
    refusal = assistant(f"[INFO] {TOO_LONG.render(language)}\n")
    history = [user("I am Bob"), assistant("hi"), user("long"), user("q"), refusal, user("who?")]
    assert compose(history, modelfile()).history == [*history[:2], user("who?")]


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
    """Though they are neighbours."""
    neighbours = [user("a")] * 100_000
    assert len(merge_consecutive(neighbours)) == 1
