"""Which server is asked, for whom, with which token."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.kernel.terminal import options
from kuwa_min.kernel.terminal.answer import ServerError
from kuwa_min.kernel.terminal.clients import KernelClient, OpenAIClient
from tests.kuwa_min.kernel.terminal.test_clients import echo
from tests.kuwa_min.serving.api_client import api

TOKEN = "token-of-a-client-0123"


def client_of(*words: str) -> OpenAIClient | KernelClient:
    """Return the client for these options."""
    parser = options.create_parser("kuwa chat", "", "")
    made = options.connect(parser.parse_args(words))
    assert isinstance(made, OpenAIClient | KernelClient)
    return made


def test_a_kernel_is_asked_unless_a_base_url_is_given() -> None:
    """Not both."""
    assert isinstance(client_of(), KernelClient)
    assert isinstance(client_of("--base_url", "http://localhost:1/v1"), OpenAIClient)
    with pytest.raises(SystemExit):
        client_of("--base_url", "http://localhost:1", "--kernel_url", "http://localhost:2")


def test_a_base_url_needs_no_path() -> None:
    """A path that is given is kept."""
    with api(echo) as one:
        assert client_of("--base_url", one.url.removesuffix("/v1")).names() == ["m", "a/b c"]
        assert client_of("--base_url", f"{one.url}/").names() == ["m", "a/b c"]


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file comes first; a Kernel gets none."""
    path = tmp_path / "tokens"
    path.write_text(f"# mine\n{TOKEN}\nother-token-of-a-client\n", encoding="utf-8")
    with api(echo, tokens=[TOKEN]) as one:
        with pytest.raises(ServerError):
            client_of("--base_url", one.url).names()
        monkeypatch.setenv(options.TOKEN_VARIABLE, TOKEN)
        assert client_of("--base_url", one.url).names()
        monkeypatch.setenv(options.TOKEN_VARIABLE, "wrong-token-of-a-client")
        assert client_of("--base_url", one.url, "--api_token_file", str(path)).names()
    with pytest.raises(UsageError, match="a Kernel takes no token"):
        client_of("--api_token_file", str(path))


@pytest.mark.parametrize("token", ["two words", "new\nline", "ü"])
def test_what_is_no_token_is_not_repeated(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor sent: it could forge a header."""
    monkeypatch.setenv(options.TOKEN_VARIABLE, token)
    with pytest.raises(UsageError) as refused:
        client_of("--base_url", "http://localhost:1/v1")
    assert token not in str(refused.value)


def test_the_first_access_code_is_asked() -> None:
    """Unless one is named."""

    class Client(OpenAIClient):
        listed: tuple[str, ...] = ("a", "b")

        def names(self) -> list[str]:
            return list(self.listed)

    client = Client("http://localhost:1/v1")
    assert options.choose_name(client, None) == "a"
    assert options.choose_name(client, "c") == "c"
    client.listed = ()
    with pytest.raises(ServerError, match="no executor"):
        options.choose_name(client, None)
