"""Decide what may be said in the log, on the terminal and at /status: no secrets, no chats.

A secret is a key, a token, a password or a secret path. It is known from an option, from the
environment or from a backend, or by its look. Content is what clients and users write: chats, names
in Modelfiles, header values, paths that do not exist. It is told by its length only, unless the
operator allows more (--log_content).

Every line of the log and every fatal error passes `clean`. An error about a command line passes
`clean_command_line`, and the words of a service `clean_service` besides, as both may repeat keys in
ways of their own. All of it is for the whole process, as logging itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SHORTEST = 6  # characters of a secret; hiding shorter ones would hide parts of ordinary words
LONG_SEGMENT = 20  # characters of a path's segment that is taken for a secret: `auto` makes 32
EXCERPT = 8  # characters at the beginning or end of a secret that are hidden by themselves
LONGEST_CONTENT = 80  # characters that are shown where content may be

# Names of options and variables whose value is a secret: what they end in, as words between _.
SECRET_NAMES = ("key", "keys", "apikey", "token", "secret", "password", "passwd", "credentials")
FILES = ("tls_key", "ssl_key")  # named so, and the path of a file
MISSPELLED = ("api_key", "api_token", "access_token", "password")  # also found if nearly so
ABBREVIATED = ("api", "auth", "authorization", "pass", "pwd")  # only as options
OF_API = ("loopback", "on", "off")  # values of --api, which may be an --api_key cut short
LIKENESS = 0.8  # of a misspelled name, as difflib counts it
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # with those that word processors make
BETWEEN = re.compile(r"[\s=:\"'{},]+")  # what may stand between a name and its value

KEYS = re.compile(
    r"\b(?:(?:sk|pk|gsk|xai)[-_][\w*.…-]{8,}"  # OpenAI and others, also abbreviated
    r"|hf_[A-Za-z0-9]{30,}|AIza[\w*.…-]{8,}"  # Hugging Face, Google
    r"|eyJ[\w-]{10,400}\.[\w-]{10,}\.[\w-]*)"  # JSON Web Tokens
    r"|(?<=[Bb]earer )\S+"
)
# One of these is in every text that KEYS finds something in: looking for them takes a hundredth.
KEY_SIGNS = ("sk-", "sk_", "pk-", "pk_", "xai-", "xai_", "hf_", "AIza", "eyJ", "earer ")
IN_URL = re.compile(
    r"(?<=://)[^/\s@]{1,1024}(?=@)"  # user and password
    r"|(?<=[?&])((?:[\w-]{0,32}[_-])?(?:key|token|secret|password|signature|sig)=)[^&\s\"'#]+",
    re.IGNORECASE,
)
URL_SIGNS = ("@", "?", "&")  # likewise, of IN_URL
UNNAMED = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])\w{20,}")  # a word that may be any service's key
CUT_OUT = re.compile(r"[*.…]{2,}|…")  # what stands for the middle of an abbreviated key
AROUND = "\"'`.,;:!?()[]{}<>"  # punctuation around a word

_secrets: set[str] = set()
_shows_content = False


def hide(secret: object) -> None:
    """Replace this text by *** from now on; others than texts and very short ones are ignored."""
    if isinstance(secret, str) and len(secret) >= SHORTEST:
        _secrets.update((secret, quote(secret, safe="")))


def hide_options(options: Mapping[str, object]) -> None:
    """Hide the values of options whose names say that they are secret, and secret paths."""
    for name, value in options.items():
        if is_secret_name(name):
            for one in value if isinstance(value, list) else [value]:
                hide(one)
    for segment in str(options.get("executor_path", "")).split("/"):
        if len(segment) >= LONG_SEGMENT:
            hide(segment)


def hide_environment(environment: Mapping[str, str]) -> None:
    """Hide keys in variables whose names say so, and the passwords of proxies."""
    for name, value in environment.items():
        if is_secret_name(name) and len(value) >= EXCERPT:
            hide(value)
        elif name.lower().endswith("_proxy"):
            hide(_password(value))


def _password(url: str) -> str:
    try:
        return unquote(urlsplit(url if "://" in url else f"http://{url}").password or "")
    except ValueError:
        return ""


def is_secret_name(name: str) -> bool:
    """Tell whether the value of an option or variable of this name is a secret."""
    plain = _plain(name)
    return plain.rpartition("_")[2] in SECRET_NAMES and plain not in FILES


def _plain(name: str) -> str:
    return name.lstrip(DASHES).lower().replace("-", "_")


def clean(text: str) -> str:
    """Return a text without the secrets that are known or look like one."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if any(sign in text for sign in KEY_SIGNS):
        text = KEYS.sub(MASK, text)
    if any(sign in text for sign in URL_SIGNS):
        text = IN_URL.sub(lambda found: f"{found[1] or ''}{MASK}", text)
    return text


def clean_command_line(text: str, words: Sequence[str]) -> str:
    """Return an error about these words of a command line, without the secrets among them."""
    secrets = {secret for secret in _secrets_among(words) if secret and secret not in OF_API}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return clean(text)


def _secrets_among(words: Sequence[str]) -> Iterator[str]:
    """Yield the values of secret options, and values that may be a key with no option's name."""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not word.startswith(tuple(DASHES)):
            name, value = "", word
        if _is_nearly_secret(name):
            following = "".join(words[at + 1 : at + 2])
            yield value if equals else "" if following.startswith("--") else following
        elif UNNAMED.fullmatch(value):
            yield value
    yield from _secrets_within(BETWEEN.split(" ".join(words)))


def _secrets_within(tokens: list[str]) -> Iterator[str]:
    """Yield the same where names and values stand in one word, or without dashes."""
    for name, value in zip(tokens, [*tokens[1:], ""], strict=True):
        if UNNAMED.fullmatch(name):
            yield name
        if len(value) >= SHORTEST and not value.startswith("--") and _is_nearly_secret(name):
            yield value


def _is_nearly_secret(name: str) -> bool:
    """Tell whether a word is the name of a secret option, perhaps misspelled or cut short."""
    import difflib  # slow to import; only for errors

    plain = _plain(name)
    is_cut = name.startswith(tuple(DASHES)) and plain in ABBREVIATED
    return (
        is_secret_name(name)
        or is_cut
        or bool(difflib.get_close_matches(plain, MISSPELLED, 1, LIKENESS))
    )


def clean_service(text: str, secrets: Iterable[str]) -> str:
    """Return the words of a service on one line, without keys, also where it abbreviates them.

    secrets: what was sent to it.
    """
    known = [*filter(None, secrets), *_secrets]
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    words = clean(text).split()
    return " ".join(MASK if _is_excerpt(word, known) else word for word in words)


def _is_excerpt(word: str, secrets: Iterable[str]) -> bool:
    """Tell whether a word is an excerpt of a key: "ab***yz" always, "ab...yz" of a known one."""
    bare = word.rstrip(AROUND).lstrip(AROUND.replace(".", ""))
    if "**" in bare.replace(MASK, ""):
        return True
    first, *rest = CUT_OUT.split(bare)
    last = rest[-1] if rest else ""
    return any(
        (rest and (first or last) and secret.startswith(first) and secret.endswith(last))
        or (len(secret) > 2 * EXCERPT and (secret[:EXCERPT] in bare or secret[-EXCERPT:] in bare))
        for secret in secrets
    )


def allow_content(allowed: bool) -> None:
    """Let `content` show what clients and users write, or not."""
    global _shows_content
    _shows_content = allowed


def content(text: str) -> str:
    """Return what may be said of a text that a client or user wrote: its length, or its start."""
    if not _shows_content:
        return f"({len(text)} characters)"
    return repr(text[:LONGEST_CONTENT]) + ("..." if len(text) > LONGEST_CONTENT else "")
