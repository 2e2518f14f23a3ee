"""The lock file: pinned versions and hashes, as a requirements.txt that pip reads too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import InvalidTextFile, read_text

from .target import TargetPython

TITLE = "# kuwa lock: the packages of one file; build.py --lock makes it, pip can read it"
PIN = re.compile(r"(\w[\w.-]*)==([^\s;]+)((?:\s+--hash=sha256:[0-9a-f]{64})*)", re.ASCII)


class Pin(NamedTuple):
    """One package of a lock; a file with any of the hashes satisfies it."""

    name: str  # normalised: "llama-cpp-python"
    version: str
    hashes: tuple[str, ...]  # sha256, in hex

    def text(self, separator: str = " \\\n    ") -> str:
        """Return the requirement as pip reads it."""
        hashes = (f"--hash=sha256:{digest}" for digest in self.hashes)
        return separator.join([f"{self.name}=={self.version}", *hashes]) + "\n"


class SourcePin(NamedTuple):
    """A package to compile: its sdist, and all that runs while it is compiled."""

    sdist: Pin
    tools: tuple[Pin, ...]  # wheels: the build backend, CMake and what they require


class Lock(NamedTuple):
    """The packages of one file, and the target that they were resolved for."""

    backend: str
    target: TargetPython
    pins: tuple[Pin, ...]
    torch_variant: str = ""  # "cpu", "cu130"; "" for torch of the usual index
    host_packages: tuple[str, ...] = ()  # what --thin leaves to the host's Python
    source: SourcePin | None = None  # its sdist is among the pins, too

    def text(self) -> str:
        """Return the text of the file; equal locks give equal bytes."""
        facts = {
            "backend": self.backend,
            "python": self.target.python,
            "platform": self.target.platform,
            "torch": self.torch_variant,
            "host": " ".join(sorted(self.host_packages)),
            "source": self.source.sdist.name if self.source else "",
        }
        header = "".join(f"# {name}: {fact}\n" for name, fact in facts.items() if fact)
        used = _in_order(self.source.tools) if self.source else ()
        tools = "".join(f"# tool: {pin.text(' ')}" for pin in used)
        return f"{TITLE}\n{header}{tools}\n" + "".join(pin.text() for pin in _in_order(self.pins))

    def narrowed(self, used: Iterable[str]) -> Lock:
        """Keep only the hashes of the wheels in use, so that later builds take the same ones."""
        return self._replace(pins=narrowed(self.pins, used))

    def with_source(self, source: SourcePin) -> Lock:
        """Pin the source of a package in place of the wheel that was compiled of it."""
        return self._with_pin(source.sdist)._replace(source=source)

    def with_compiled(self, pin: Pin) -> Lock:
        """Pin the wheel that was compiled in place of its source."""
        return self._with_pin(pin)._replace(source=None)

    def _with_pin(self, pin: Pin) -> Lock:
        others = (one for one in self.pins if one.name != pin.name)
        return self._replace(pins=tuple(_in_order([*others, pin])))


def narrowed(pins: Iterable[Pin], used: Iterable[str]) -> tuple[Pin, ...]:
    """Keep only the hashes in use."""
    kept = frozenset(used)
    return tuple(
        pin._replace(hashes=tuple(digest for digest in pin.hashes if digest in kept))
        for pin in pins
    )


def _in_order(pins: Iterable[Pin]) -> list[Pin]:
    return sorted(pin._replace(hashes=tuple(sorted(set(pin.hashes)))) for pin in pins)


def read_lock(path: Path) -> Lock:
    """Read a lock; raises UsageError if the file is missing or malformed."""
    if not path.exists():
        raise UsageError(f"there is no lock {path}; build.py --lock {path} makes it")
    try:
        text = read_text(str(path))
    except InvalidTextFile as error:
        raise UsageError(f"the lock {path} {error}") from None
    if not text.startswith(TITLE):
        raise UsageError(f"{path} is not a kuwa lock; remove it, and build.py --lock makes one")
    facts = dict(re.findall(r"^# (\w+): (.+)$", text.removeprefix(TITLE), re.MULTILINE))
    missing = [name for name in ("backend", "python", "platform") if name not in facts]
    if missing:
        raise UsageError(f"the lock {path} does not say its {', '.join(missing)}; make it anew")
    target = TargetPython.of(facts["python"], facts["platform"])
    host = tuple(facts.get("host", "").split())
    pins = read_pins(text, str(path))
    source = _source(text, facts.get("source", ""), pins, path)
    return Lock(facts["backend"], target, pins, facts.get("torch", ""), host, source)


def _source(text: str, name: str, pins: Iterable[Pin], path: Path) -> SourcePin | None:
    if not name:
        return None
    sdist = next((pin for pin in pins if pin.name == name), None)
    if sdist is None:
        raise UsageError(f"the lock {path} does not pin its source {name}; make it anew")
    lines = re.findall(r"^# tool: (.+)$", text, re.MULTILINE)
    return SourcePin(sdist, read_pins("\n".join(lines), str(path)))


def read_pins(text: str, place: str) -> tuple[Pin, ...]:
    """Parse pins as pip and uv write them, sorted by name; place is the source for messages."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return tuple(_in_order(_pin(line, place) for line in lines if line and line[0] != "#"))


def _pin(line: str, place: str) -> Pin:
    found = PIN.fullmatch(line)
    if not found:
        raise UsageError(f"{place} has a line that is not name==version with hashes: {line[:80]}")
    hashes = re.findall(r"sha256:(\w+)", found[3])
    return Pin(canonicalize_name(found[1]), found[2], tuple(sorted(set(hashes))))


def check(
    lock: Lock,
    backend: str,
    target: TargetPython,
    requirements: Iterable[str],
    *,
    torch_variant: str = "",
    host_packages: Iterable[str] = (),
) -> None:
    """Raise UsageError if a lock is for another build or does not satisfy the requirements."""
    wanted = _described(backend, target, torch_variant or lock.torch_variant, host_packages)
    found = _described(lock.backend, lock.target, lock.torch_variant, lock.host_packages)
    if found != wanted:
        raise UsageError(f"the lock is for {found}, this build for {wanted}; make another lock")
    tools = lock.source.tools if lock.source else ()
    bare = [pin.name for pin in (*lock.pins, *tools) if not pin.hashes]
    if bare:
        raise UsageError(f"the lock has no hashes for {', '.join(bare)}; make the lock anew")
    versions = {pin.name: pin.version for pin in lock.pins}
    for requirement in requirements:
        _check_floor(requirement, versions, target)


def _described(backend: str, target: TargetPython, variant: str, host: Iterable[str]) -> str:
    packages = ", ".join(sorted(host))
    torch = f" with torch for {variant}" if variant else ""
    return f"{backend}, {target}{torch}" + (f", without {packages}" if packages else "")


def _check_floor(text: str, versions: dict[str, str], target: TargetPython) -> None:
    needed = parse_requirement(text)
    if needed.marker and not needed.marker.evaluate(target.environment):
        return
    version = versions.get(canonicalize_name(needed.name))
    if version is None:
        raise UsageError(f"the lock lacks {needed.name}, which is needed; make the lock anew")
    if not needed.specifier.contains(version, prereleases=True):
        raise UsageError(
            f"the lock has {needed.name} {version}, needed is {needed.specifier}; make it anew"
        )


def parse_requirement(text: str) -> Requirement:
    """Parse a PEP 508 requirement; raises UsageError."""
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(f"{text!r} is no requirement: {str(error).splitlines()[0]}") from None
