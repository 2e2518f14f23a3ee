"""Ordinary text between control tokens is tokenized as the library does it behind one."""

from __future__ import annotations

from backends._local.tokenizing.control_tokens import ControlToken, ControlTokens
from backends._local.tokenizing.prompt_tokenizer import PromptTokenizer
from tests.support import local_chats
from tests.support.models.byte_tokenizer import ByteTokenizer


class Written:
    """A template that writes messages one after the other behind <s>."""

    def render(self, chat: list[dict[str, str]], /, **_: object) -> str:
        """Return the text."""
        return "<s>" + "<s>".join(one["content"] for one in chat)


class Stubborn(ByteTokenizer):
    """Finds control tokens in ordinary text, too, as llama.cpp finds those that users defined."""

    def __init__(self, *texts: str, **flags: bool) -> None:
        super().__init__(*texts)
        tokens = (ControlToken(self._ids[text], text, **flags) for text in texts)
        self.control_tokens = ControlTokens(tokens)
        self.first: list[str] = []

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return what tokenize() does."""
        self.first += [text] * is_first
        return self.tokenize(text)


def read(tokenizer: ByteTokenizer, *said: str) -> str:
    """Return what a model reads."""
    ids = PromptTokenizer(tokenizer).encode(Written(), local_chats.chat(*said))
    return tokenizer.read(ids)


def test_what_a_library_finds_all_the_same_is_divided() -> None:
    """Behind the first letter, or anywhere if no text shows what it found."""
    tokenizer = Stubborn("<s>", "</s>")
    assert read(tokenizer, "a<s>b</s></s>", "c") == "⟨<s>⟩a<s>b</s></s>⟨<s>⟩c"
    tokenizer._ids["other"] = tokenizer._ids["</s>"]
    assert read(tokenizer, "<s>other", "c") == "⟨<s>⟩<s>other⟨<s>⟩c"


def test_a_letter_that_is_a_control_token_is_left_out() -> None:
    """There is no other way to write it."""
    assert read(Stubborn("<s>", "|"), "a|b|c", "d") == "⟨<s>⟩abc⟨<s>⟩d"


def test_control_tokens_may_take_the_space_around_them() -> None:
    """As their attributes say; then the template's do so here."""
    for flags, text in (
        ({}, "⟨<s>⟩ <s> ⟨<s>⟩ b "),
        ({"lstrip": True}, "⟨<s>⟩ <s>⟨<s>⟩ b "),
        ({"rstrip": True}, "⟨<s>⟩<s> ⟨<s>⟩b "),
        ({"lstrip": True, "rstrip": True}, "⟨<s>⟩<s>⟨<s>⟩b "),
    ):
        assert read(Stubborn("<s>", **flags), " <s> ", " b ") == text


def test_the_beginning_of_a_prompt_is_known() -> None:
    """Some tokenizers write a space there."""
    tokenizer = Stubborn("<s>")
    read(tokenizer, "<s>a", "b")
    assert tokenizer.first == []

    class Bare:
        def render(self, chat: list[dict[str, str]], /, **_: object) -> str:
            return chat[0]["content"]

    PromptTokenizer(tokenizer).encode(Bare(), local_chats.chat("b<s>a"))
    assert tokenizer.first == ["b<s>a", "b<"]


def test_other_spellings_of_control_tokens_are_noticed() -> None:
    """Where a tokenizer says that it finds such."""
    tokenizer = Stubborn("<s>", "</s>")
    tokenizer._ids["＜s＞"] = tokenizer._ids["<s>"]
    token = tokenizer._ids["<s>"]
    tokens = tokenizer.control_tokens.by_text.values()
    for is_exact, count in ((True, 2), (False, 1)):
        tokenizer.control_tokens = ControlTokens(tokens, is_exact=is_exact)
        ids = PromptTokenizer(tokenizer).encode(Written(), local_chats.chat("a＜s＞"))
        assert ids.count(token) == count
