"""The layers: imports point down, the core needs Python alone, and a start imports little.

The sources are read, not run; imports inside functions and under TYPE_CHECKING count as all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import ROOT

# A module may import from the lines above its own, and from no other.
LAYERS = (
    ("errors", "manifest"),
    ("log", "modelfile", "metrics", "address", "http1", "stream", "generation", "text"),
    ("messages", "options", "process", "delivery"),
    ("protocol", "exchange"),
    ("connection", "records"),
    ("httpd", "relay"),
    ("registration", "slots"),
    ("server", "embedded_kernel"),
    ("service",),
    ("executor",),
    ("__init__",),  # the front door
    ("registry", "compat"),
    ("cli",),
    ("__main__", "launch"),
)
LAYER = {module: number for number, line in enumerate(LAYERS) for module in line}
FOR_BACKENDS = {"__init__", "modelfile", "messages", "generation", "text", "errors"}
LAZY = {"generation": {"yaml"}}  # libraries that a function may import if they are there
STANDARD = {*sys.stdlib_module_names, "tomllib"}  # tomllib came with Python 3.11
JYTHON = {"org", "org.python", "org.python.core"}  # looked for in vain by Python's own copy
PACKAGES = ("kuwa_min", "backends")


class Import(NamedTuple):
    """One name that a source imports: "kuwa_min.log", "json"; and whether it does so at once."""

    module: str
    line: int
    at_once: bool


def sources(package: str) -> dict[str, Path]:
    """Return the modules of a package by name."""
    return {path.stem: path for path in sorted((ROOT / package).glob("*.py"))}


MODULES = {package: sources(package) for package in PACKAGES}


def imports(package: str, module: str) -> list[Import]:
    """Return everything that a module imports, wherever it does so."""
    tree = ast.parse(MODULES[package][module].read_text(encoding="utf-8"))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    return [
        Import(name, node.lineno, id(node) not in inside)
        for node in ast.walk(tree)
        for name in imported(node, package)
    ]


def imported(node: ast.AST, package: str) -> list[str]:
    """Return the modules that this one statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    source = node.module or ""
    if node.level:
        source = f"{package}.{source}".rstrip(".")
    if source not in PACKAGES:
        return [source]
    return [named(source, alias.name) for alias in node.names]


def named(package: str, name: str) -> str:
    """Return what `from package import name` needs: a module of it, or the package itself."""
    return f"{package}.{name}" if name in MODULES[package] else f"{package}.__init__"


def is_version(package: str, module: str, found: Import) -> bool:
    """Tell whether an import takes the version and nothing else: a fact, not code."""
    text = MODULES[package][module].read_text(encoding="utf-8").splitlines()[found.line - 1]
    return re.fullmatch(r"\s*from \. import __version__", text) is not None


def upward(module: str) -> list[str]:
    """Return what a module of ours imports from its own layer or from above."""
    return [
        f"{module}.py:{found.line} imports {found.module}"
        for found in imports("kuwa_min", module)
        if found.module.startswith("kuwa_min.")
        and LAYER[found.module.partition(".")[2]] >= LAYER[module]
        and not (found.module == "kuwa_min.__init__" and is_version("kuwa_min", module, found))
    ]


def test_every_module_has_its_layer() -> None:
    """A new module is put where it belongs, and one that is gone leaves the list."""
    assert set(LAYER) == set(MODULES["kuwa_min"])


@pytest.mark.parametrize("module", MODULES["kuwa_min"])
def test_imports_point_down(module: str) -> None:
    """No module knows one of its own layer or of a higher one."""
    assert upward(module) == []


@pytest.mark.parametrize("module", MODULES["kuwa_min"])
def test_the_core_needs_python_alone(module: str) -> None:
    """Other libraries are imported inside a function that can do without them, if at all."""
    foreign = [
        found
        for found in imports("kuwa_min", module)
        if found.module.partition(".")[0] not in STANDARD | {"kuwa_min"}
    ]
    assert not [found for found in foreign if found.at_once]
    assert {found.module for found in foreign} <= LAZY.get(module, set())


@pytest.mark.parametrize("module", MODULES["backends"])
def test_a_backend_sees_options_and_text_only(module: str) -> None:
    """Of us it imports the public names, options, messages and errors: no HTTP, Kernel, metrics."""
    seen = {
        found.module.partition(".")[2] or "__init__"
        for found in imports("backends", module)
        if found.module.partition(".")[0] == "kuwa_min"
    }
    assert seen <= FOR_BACKENDS


def test_only_the_registry_knows_the_backends() -> None:
    """It finds them by their folder; no module of ours imports one by name."""
    known = [
        found
        for module in MODULES["kuwa_min"]
        for found in imports("kuwa_min", module)
        if found.module.partition(".")[0] == "backends"
    ]
    assert known == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_the_builder(package: str) -> None:
    """What makes a file is no part of it."""
    for module in MODULES[package]:
        assert "build" not in {found.module for found in imports(package, module)}


# -- what really happens


def loaded(*arguments: str) -> set[str]:
    """Return the modules that Python imports for this command line."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = set(re.findall(r"^import time:[\s\d|]+\|\s+(\S+)$", done.stderr, re.MULTILINE))
    return names - JYTHON


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """Return what Python imports for nothing at all, which site-packages may have added to."""
    return loaded("-c", "pass")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--list",),
        ("--version",),
        ("debug", "--help"),
        ("kernel", "--help"),
        ("examples/my_executor.py", "--help"),
        ("examples/kuwa_executor.py", "--help"),
    ],
)
def test_a_start_imports_nothing_foreign(arguments: tuple[str, ...], bare: set[str]) -> None:
    """Only the standard library and our two packages; and for a list or a help, no asyncio."""
    modules = loaded("-m", "kuwa_min", *arguments) - bare
    tops = {name.partition(".")[0] for name in modules}
    assert "kuwa_min" in tops
    assert tops <= STANDARD | set(PACKAGES)
    if not arguments[0].endswith("kuwa_executor.py"):
        assert "asyncio" not in tops


def test_importing_every_backend_imports_nothing_foreign(bare: set[str]) -> None:
    """Heavy libraries wait for setup(), so that --help works without them."""
    names = [name for name in MODULES["backends"] if not name.startswith("_")]
    body = "".join(f"import backends.{name}\n" for name in names)
    tops = {name.partition(".")[0] for name in loaded("-c", body) - bare}
    assert set(PACKAGES) <= tops <= STANDARD | set(PACKAGES)
