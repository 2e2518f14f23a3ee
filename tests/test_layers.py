"""The layers: imports point down, the core needs Python alone, and a start imports little.

The sources are read, not run; imports inside functions and under TYPE_CHECKING count as all others.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from kuwa_min import registry
from tests.support.programs import ROOT

BACKENDS = ("chatgpt", "geminipro", "huggingface", "llamacpp", "debug", "dummy")
NEW_BACKENDS = [f"backends/{name}" for name in registry.names() if name not in BACKENDS]
# Folders, and files that lie in none of them: each imports from lines above its own and from its
# own folder, and from no other.
LAYERS = (
    ("kuwa_min/errors", "kuwa_min/progress"),
    ("kuwa_min/log/redaction",),
    ("kuwa_min/log", "kuwa_min/process/supervision"),
    ("kuwa_min/process/deadline",),
    ("kuwa_min/process",),
    ("kuwa_min/chat", "kuwa_min/options/yaml"),
    ("kuwa_min/bundle/trust",),
    ("kuwa_min/options", "kuwa_min/httpd", "kuwa_min/bundle"),
    ("kuwa_min/kernel", "kuwa_min/serving/commands"),
    ("kuwa_min/serving/openai_api",),
    ("kuwa_min/serving", "kuwa_min/kernel/terminal"),
    ("kuwa_min/kuwa_attributes",),
    ("kuwa_min/executor",),
    ("kuwa_min/__init__",),  # the front door
    ("kuwa_min/registry", "kuwa_min/compat"),
    ("kuwa_min/drop_in",),
    ("kuwa_min/cli",),
    ("kuwa_min/__main__", "kuwa_min/launch"),
    # What makes files:
    ("kuwa_min/packing/wheels", "kuwa_min/packing/elf"),
    ("kuwa_min/packing/llama_cpp",),
    ("kuwa_min/packing/custom", "kuwa_min/packing/model_files"),
    ("kuwa_min/packing/kit",),
    ("kuwa_min/packing",),
    # The backends:
    ("backends/__init__",),
    ("backends/_http",),
    ("backends/_media",),
    ("backends/_cloud", "backends/_local/templates", "backends/_local/model_files"),
    ("backends/_local/tokenizing",),
    ("backends/_local",),
    ("backends/chatgpt", "backends/geminipro", "backends/huggingface", "backends/llamacpp"),
    ("backends/debug",),
    ("backends/dummy", *NEW_BACKENDS),
)
LAYER = {room: number for number, line in enumerate(LAYERS) for room in line}
FOR_BACKENDS = {
    "kuwa_min/__init__",
    "kuwa_min/errors",
    "kuwa_min/log/redaction",
    "kuwa_min/process/supervision",
    "kuwa_min/process/deadline",
    "kuwa_min/bundle/trust",
    "kuwa_min/chat",
    "kuwa_min/options",
}
PACKING = "kuwa_min/packing"
LAZY = {"yaml", "tomllib"}  # libraries that a function of kuwa_min/options may import if installed
STANDARD = {*sys.stdlib_module_names, "tomllib"}  # tomllib came with Python 3.11
JYTHON = {"org", "org.python", "org.python.core"}  # tried by Python's own copy
SHIPPED = {"kuwa_min", "backends"}
FOR_PACKING = {"packaging", "shiv"}  # what python build.py needs beside Python and uv
# Run at every start with libraries, before the program:
WARM = {
    "kuwa_min.__init__",
    "kuwa_min.errors",
    "kuwa_min.progress",
    "kuwa_min.bundle.__init__",
    "kuwa_min.bundle.activate",
    "kuwa_min.bundle.cache",
    "kuwa_min.bundle.cache_root",
    "kuwa_min.bundle.trust",
    "kuwa_min.bundle.versions",
}
SLOW = {"typing", "json", "zipfile", "tempfile", "hashlib", "subprocess", "pathlib", "shutil"}


class Import(NamedTuple):
    """One module that a source imports: "kuwa_min.log", "json"; and how."""

    module: str
    line: int
    at_once: bool
    for_types: bool


def sources() -> dict[str, Path]:
    """Return the modules by name: "kuwa_min.chat.__init__"."""
    paths = [path for top in sorted(SHIPPED) for path in sorted((ROOT / top).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


MODULES = sources()


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Return everything that a module imports, wherever it does so."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    package = module.rpartition(".")[0]
    return tuple(
        Import(name, node.lineno, at_once, for_types)
        for node, at_once, for_types in import_statements(tree)
        for name in imported(node, package)
    )


def import_statements(
    node: ast.AST, at_once: bool = True, for_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Yield the imports below a node, and how; expressions, which have none, are not visited."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for one in getattr(node, field, ()):
            if isinstance(one, ast.Import | ast.ImportFrom):
                yield one, at_once, for_types
            else:
                is_later = isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
                types = for_types or (isinstance(one, ast.stmt) and is_for_types(one))
                yield from import_statements(one, at_once and not is_later, types)


def is_for_types(node: ast.stmt) -> bool:
    """Tell whether a statement is an `if TYPE_CHECKING`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Return the modules that this one statement imports."""
    if isinstance(node, ast.Import):
        return [full_name(alias.name) for alias in node.names]
    source = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*above, *source.split(".")]).rstrip(".")
    return [full_name(f"{source}.{alias.name}", source) for alias in node.names]


def full_name(name: str, package: str = "") -> str:
    """Return the name of a module of ours as MODULES has it; of others what was written."""
    for one in (name, f"{name}.__init__", package, f"{package}.__init__"):
        if one in MODULES:
            return one
    return package or name


def ours(module: str) -> list[Import]:
    """Return the modules of ours that a module imports."""
    return [one for one in imports(module) if one.module in MODULES and one.module != module]


def foreign(module: str) -> list[Import]:
    """Return the imports that are neither Python's nor ours."""
    known = STANDARD | SHIPPED
    return [one for one in imports(module) if one.module.partition(".")[0] not in known]


def room(module: str) -> str:
    """Return the line's entry that a module belongs to: its file or the nearest folder."""
    path = module.replace(".", "/")
    while path not in LAYER:
        path, found, _ = path.rpartition("/")
        assert found, f"{module} has no layer"
    return path


def is_version(module: str, found: Import) -> bool:
    """Tell whether an import takes the version and nothing else: a fact, not code."""
    line = MODULES[module].read_text(encoding="utf-8").splitlines()[found.line - 1].strip()
    return line in ("from . import __version__", "from kuwa_min import __version__")


def within(folder: str) -> list[str]:
    """Return the modules below a folder."""
    prefix = folder.replace("/", ".") + "."
    return [module for module in MODULES if module.startswith(prefix)]


CORE = [module for module in within("kuwa_min") if module not in within(PACKING)]


def named(module: str, found: list[Import]) -> list[str]:
    """Return these imports of a module as an assertion shows them."""
    return [f"{module}:{one.line} imports {one.module}" for one in found]


def upward(module: str) -> list[Import]:
    """Return the imports of folders in a module's own layer or in a higher one."""
    here = room(module)
    return [
        one
        for one in ours(module)
        if room(one.module) != here
        and LAYER[room(one.module)] >= LAYER[here]
        and not is_version(module, one)
    ]


def test_imports_point_down() -> None:
    """No module knows a folder of its own layer or of a higher one."""
    assert [line for module in MODULES for line in named(module, upward(module))] == []


def test_no_imports_run_in_circles() -> None:
    """Neither at once nor through functions or TYPE_CHECKING, in any folder."""
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for one in ours(module):
                if not is_version(module, one):
                    visit(one.module, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def wrong(modules: Iterable[str], is_wrong: Callable[[str, Import], bool]) -> list[str]:
    """Return the imports of these modules that a rule forbids, as an assertion shows them."""
    return [
        line
        for module in modules
        for line in named(module, [one for one in imports(module) if is_wrong(module, one)])
    ]


def test_the_core_needs_python_alone() -> None:
    """Other libraries are imported inside a function that can do without them, if at all."""
    allowed = {"kuwa_min/options": LAZY, "kuwa_min/drop_in": {"PIL", "kuwa"}}

    def is_wrong(module: str, one: Import) -> bool:
        if one not in foreign(module) or one.module.startswith("kuwa."):
            return False
        is_allowed = one.module.partition(".")[0] in allowed.get(room(module), set())
        return not is_allowed or (one.at_once and one.module != "kuwa")

    assert CORE
    assert wrong(CORE, is_wrong) == []


def test_what_makes_files_needs_little() -> None:
    """Shiv waits until it is needed, so that its absence is one line."""

    def is_wrong(module: str, one: Import) -> bool:
        top = one.module.partition(".")[0]
        is_early = one.at_once and top == "shiv"
        return one in foreign(module) and (top not in FOR_PACKING or is_early)

    assert within(PACKING)
    assert wrong(within(PACKING), is_wrong) == []


def test_the_warm_way_to_the_libraries_is_short() -> None:
    """What stands before every start imports nothing that takes milliseconds."""

    def is_wrong(_: str, one: Import) -> bool:
        is_loaded = one.at_once and not one.for_types
        return is_loaded and (one.module in SLOW or one.module in set(MODULES) - WARM)

    assert wrong(sorted(WARM - {"kuwa_min.__init__"}), is_wrong) == []


def test_a_backend_sees_options_and_text_only() -> None:
    """Of the core: the public names, errors, chat and options; no HTTP server, Kernel, metrics."""

    def is_wrong(module: str, one: Import) -> bool:
        is_of_core = one.module.startswith("kuwa_min.") and one in ours(module)
        return is_of_core and room(one.module) not in FOR_BACKENDS

    assert within("backends")
    assert wrong(within("backends"), is_wrong) == []


def test_the_core_knows_neither_backends_nor_what_makes_files() -> None:
    """The registry finds backends by their folder; packing is no part of a file."""
    others = ("backends", "kuwa_min.packing", "build")
    assert wrong(CORE, lambda _, one: one.module.startswith(others)) == []


# -- what really happens


def loaded(*arguments: str) -> set[str]:
    """Return the modules that Python imports for this command line."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
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
        ("debug", "--help"),
        pytest.param(("--version",), marks=pytest.mark.slow),
        pytest.param(("kernel", "--help"), marks=pytest.mark.slow),
        pytest.param(("examples/my_executor.py", "--help"), marks=pytest.mark.slow),
        pytest.param(("examples/kuwa_executor.py", "--help"), marks=pytest.mark.slow),
    ],
)
def test_a_start_imports_nothing_foreign(arguments: tuple[str, ...], bare: set[str]) -> None:
    """Only the standard library and our two packages; and for a list or a help, no asyncio."""
    modules = loaded("-m", "kuwa_min", *arguments) - bare
    tops = {name.partition(".")[0] for name in modules}
    assert "kuwa_min" in tops
    assert tops <= STANDARD | SHIPPED | {"kuwa"}
    if not arguments[0].endswith("kuwa_executor.py"):
        assert "asyncio" not in tops


def test_importing_every_backend_imports_nothing_foreign(bare: set[str]) -> None:
    """Heavy libraries wait for setup(), so that --help works without them."""
    paths = [path for path in (ROOT / "backends").iterdir() if path.name[0] not in "._"]
    body = "".join(f"import backends.{path.stem}\n" for path in paths)
    tops = {name.partition(".")[0] for name in loaded("-c", body) - bare}
    assert SHIPPED <= tops <= STANDARD | SHIPPED


def test_a_machine_is_judged_before_the_program_is_imported(bare: set[str]) -> None:
    """Of us only the warm way is loaded by then, and nothing of Python that takes long."""
    modules = loaded("-c", "import kuwa_min.bundle.activate") - bare
    found = {full_name(name) for name in modules if name.startswith("kuwa_min")}
    assert found == WARM
    assert not modules & SLOW
