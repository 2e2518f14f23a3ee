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
    ("errors", "manifest", "machine", "modelfile_text", "progress", "yaml_scalar"),
    ("sentences",),
    ("yaml_flow",),
    ("yaml_subset",),
    # What a built file carries:
    ("archive", "inventory", "places", "verdict", "workers"),
    ("cache", "payload"),
    ("unpacking",),
    ("libraries", "file_verbs"),
    # What the program does:
    (
        "log",
        "modelfile",
        "metrics",
        "address",
        "http1",
        "admission",
        "event_loop",
        "option_files",
        "option_values",
        "text",
        "chunks",
        "side_notes",
        "usage",
    ),
    ("wire",),
    (
        "messages",
        "prompt",
        "options",
        "process",
        "delivery",
        "generation",
        "report",
        "stream",
        "kuwa_names",
        "pieces",
    ),
    ("protocol", "exchange", "status"),
    ("connection", "records", "shutdown"),
    ("httpd", "relay"),
    ("registration", "answer_writer"),
    ("answer",),
    ("slots",),
    ("server", "embedded_kernel"),
    ("service",),
    ("executor",),
    ("__init__",),  # the front door
    ("registry", "compat"),
    ("cli",),
    ("__main__", "launch"),
)
# The same for what makes files, which may import from all of kuwa_min.
PACKING_LAYERS = (
    ("__init__", "box", "elf", "kit_texts", "licence", "model", "sources"),
    ("compile_core", "compile_modules", "import_modules"),
    ("core", "lock", "shelf", "survey", "wheels"),
    ("bytecode", "needs", "prune", "resolve", "writer"),
    ("file", "gather"),
    ("assemble", "kit", "llama_wheel"),
    ("supply",),
)
FOR_BACKENDS = {
    *("__init__", "modelfile", "messages", "prompt", "generation", "text", "sentences", "errors"),
    "address",  # how the URL of a service is written
    "option_values",
}
DROP_IN = ROOT / "kuwa_min/drop_in/kuwa/executor"  # what files written for Kuwa import
LAZY = {"option_files": {"yaml"}}  # libraries that a function may import if they are there
STANDARD = {*sys.stdlib_module_names, "tomllib"}  # tomllib came with Python 3.11
JYTHON = {"org", "org.python", "org.python.core"}  # looked for in vain by Python's own copy
SHIPPED = ("kuwa_min", "backends")
PACKING = "kuwa_min.packing"
PACKAGES = (*SHIPPED, PACKING)
FOR_PACKING = {"packaging", "shiv"}  # what python build.py needs beside Python and uv
WARM = {"cache", "errors", "libraries", "places", "progress"}  # run at every start with libraries
SLOW = {"typing", "json", "zipfile", "tempfile", "hashlib", "subprocess", "pathlib", "shutil"}


class Import(NamedTuple):
    """One name that a source imports: "kuwa_min.log", "json"; and whether it does so at once."""

    module: str
    line: int
    at_once: bool


def sources(package: str) -> dict[str, Path]:
    """Return the modules of a package by name."""
    return {path.stem: path for path in sorted(ROOT.joinpath(*package.split(".")).glob("*.py"))}


MODULES = {package: sources(package) for package in PACKAGES}
LAYER = {
    f"{package}.{module}": number
    for package, layers in (("kuwa_min", LAYERS), (PACKING, PACKING_LAYERS))
    for number, line in enumerate(layers)
    for module in line
}
OURS = [(package, module) for package in ("kuwa_min", PACKING) for module in MODULES[package]]


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


def upward(package: str, module: str) -> list[str]:
    """Return what a module of ours imports of its own package, from its own layer or above."""
    return [
        f"{module}.py:{found.line} imports {found.module}"
        for found in imports(package, module)
        if found.module.rpartition(".")[0] == package
        and LAYER[found.module] >= LAYER[f"{package}.{module}"]
        and not (found.module == "kuwa_min.__init__" and is_version(package, module, found))
    ]


def foreign(package: str, module: str, ours: set[str]) -> list[Import]:
    """Return what a module imports that is neither Python's nor ours."""
    known = STANDARD | ours
    found = imports(package, module)
    return [one for one in found if one.module.partition(".")[0] not in known]


def test_every_module_has_its_layer() -> None:
    """A new module is put where it belongs, and one that is gone leaves the list."""
    assert set(LAYER) == {f"{package}.{module}" for package, module in OURS}


@pytest.mark.parametrize(("package", "module"), OURS)
def test_imports_point_down(package: str, module: str) -> None:
    """No module knows one of its own layer or of a higher one."""
    assert upward(package, module) == []


@pytest.mark.parametrize("module", MODULES["kuwa_min"])
def test_the_core_needs_python_alone(module: str) -> None:
    """Other libraries are imported inside a function that can do without them, if at all."""
    found = foreign("kuwa_min", module, {"kuwa_min"})
    assert not [one for one in found if one.at_once]
    assert {one.module for one in found} <= LAZY.get(module, set())


@pytest.mark.parametrize("path", sorted(DROP_IN.glob("*.py")), ids=lambda path: path.stem)
def test_what_files_written_for_kuwa_import_needs_python_and_us_alone(path: Path) -> None:
    """Pillow is imported by the functions that need it, so that all files can be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {name for node in tree.body for name in imported(node, "kuwa.executor")}
    anywhere = {name for node in ast.walk(tree) for name in imported(node, "kuwa.executor")}
    tops = {name.partition(".")[0] for name in at_once}
    assert tops <= STANDARD | {"kuwa", "kuwa_min"}
    assert {name.partition(".")[0] for name in anywhere} - tops <= {"PIL"}


@pytest.mark.parametrize("module", MODULES[PACKING])
def test_what_makes_files_needs_little(module: str) -> None:
    """Shiv waits until it is needed, so that its absence is one line."""
    found = foreign(PACKING, module, {"kuwa_min"})
    assert {one.module.partition(".")[0] for one in found} <= FOR_PACKING
    assert not [one for one in found if one.module.startswith("shiv") and one.at_once]


@pytest.mark.parametrize("module", sorted(WARM))
def test_the_warm_way_to_the_libraries_is_short(module: str) -> None:
    """What stands before every start imports nothing that takes milliseconds."""
    found = {one.module for one in imports("kuwa_min", module) if one.at_once}
    found -= {one.module for one in typing_only(module)}
    assert not found & SLOW
    assert {name.partition(".")[2] for name in found if name.startswith("kuwa_min.")} <= WARM


def typing_only(module: str) -> list[Import]:
    """Return what stands under `if TYPE_CHECKING`."""
    tree = ast.parse(MODULES["kuwa_min"][module].read_text(encoding="utf-8"))
    guarded = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    lines = {line for node in guarded for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    return [one for one in imports("kuwa_min", module) if one.line in lines]


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


@pytest.mark.parametrize("package", SHIPPED)
def test_nothing_imports_what_makes_files(package: str) -> None:
    """It is no part of them."""
    for module in MODULES[package]:
        names = {found.module for found in imports(package, module)}
        assert not [name for name in names if name == "build" or name.startswith(PACKING)]


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
    assert tops <= STANDARD | set(SHIPPED) | {"kuwa"}
    if not arguments[0].endswith("kuwa_executor.py"):
        assert "asyncio" not in tops


def test_importing_every_backend_imports_nothing_foreign(bare: set[str]) -> None:
    """Heavy libraries wait for setup(), so that --help works without them."""
    names = [name for name in MODULES["backends"] if not name.startswith("_")]
    body = "".join(f"import backends.{name}\n" for name in names)
    tops = {name.partition(".")[0] for name in loaded("-c", body) - bare}
    assert set(SHIPPED) <= tops <= STANDARD | set(SHIPPED)


def test_a_machine_is_judged_before_the_program_is_imported(bare: set[str]) -> None:
    """Of us only the warm way is loaded by then, and nothing of Python that takes long."""
    modules = loaded("-c", "import kuwa_min.bundle.activate") - bare
    ours = {name for name in modules if name.startswith("kuwa_min.")}
    assert ours == {f"kuwa_min.{name}" for name in WARM}
    assert not modules & SLOW
