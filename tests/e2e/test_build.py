"""build.py: reproducible files, small or with libraries, complete, and free of their birthplace.

The units are tested in tests/kuwa_min/packing; here build.py runs as a user runs it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from build import main
from kuwa_min.bundle.archive import Archive
from kuwa_min.errors import UsageError
from kuwa_min.packing.bytecode import import_statements
from kuwa_min.packing.libraries import find
from kuwa_min.packing.libraries.request import LibraryRequest
from kuwa_min.packing.sources import sources
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.registry import backend_infos
from tests.support.certificates import make_key, without_agent_and_terminal
from tests.support.manifests import ANYWHERE
from tests.support.programs import ROOT
from tests.support.pythons import python_of
from tests.support.stub_build import (
    MODEL,
    Done,
    build,
    make_libraries,
    payload_id,
    start,
    write_model,
)

pytestmark = pytest.mark.slow  # real processes, time limits or builds

pytest.importorskip("shiv", reason="build.py needs shiv: pip install shiv==1.0.8")

OTHERS = [minor for minor in range(10, 15) if minor != sys.version_info.minor]
OTHER = f"3.{OTHERS[0]}"
SOURCES = ("build.py", "kuwa_min", "backends")
VARIANTS = {
    "again": {},
    "another time zone": {"TZ": "Asia/Taipei"},
    "another locale": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "no bytecode of its own": {"PYTHONDONTWRITEBYTECODE": "1"},
    "bytecode of its own": {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "{tmp}/cache"},
    "another hash seed": {"PYTHONHASHSEED": "7"},
    "an optimised builder": {"PYTHONOPTIMIZE": "2"},
    "another temporary folder": {"TMPDIR": "{tmp}"},
    "another home": {"HOME": "{tmp}"},
    "an old zip epoch": {"SOURCE_DATE_EPOCH": "0"},
}
DOCUMENTS = ("", ".cdx.json", ".licenses.txt", ".sha256")
COUNT_COMPILED = """
import runpy, sys
compiled = []
sys.addaudithook(lambda event, about: event == "compile" and compiled.append(str(about[1])))
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print([name for name in compiled if "kuwa_min" in name or "backends" in name])
"""
WITHOUT_SHIV = """
import importlib.metadata, runpy, sys
find = importlib.metadata.version

def version(name):
    if name == "shiv":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)

importlib.metadata.version = version
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_build(
    *arguments: object,
    project: Path = ROOT,
    umask: int = 0o022,
    cwd: Path | None = None,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run build.py of a project in a process of its own."""
    command = [sys.executable, str(project / "build.py"), *map(str, arguments)]
    environment = {**os.environ, **env}
    return subprocess.run(
        command, capture_output=True, text=True, umask=umask, cwd=cwd, env=environment, check=False
    )


def build_here(*arguments: object) -> int:
    """Run build.py in this process; return its exit code."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as end:  # of argparse
        return int(end.code or 0)


def built(output: Path, *, backend: str = "debug", **how: object) -> Path:
    """Build one backend into a folder; return the file."""
    done = run_build(backend, "--output", output, **how)  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (0, "")
    return output / f"kuwa-{backend}.pyz"


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build kuwa-debug.pyz once."""
    return built(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy what build.py reads to another place, in another order, with other modes and times."""
    copy = tmp_path / "elsewhere é"
    copy.mkdir()
    for name in reversed(SOURCES):
        for source in [ROOT / name, *sorted((ROOT / name).rglob("*"), reverse=True)]:
            if source.is_file() and "__pycache__" not in source.parts:
                target = copy / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(0o600)
                os.utime(target, (1, 1))
    return copy


def run(python: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a Python with almost nothing in its environment."""
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **env}
    command = [python, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


# -- the same bytes


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_builds_are_the_same(pyz: Path, tmp_path: Path, variant: str) -> None:
    """Neither the environment nor the working directory is in the file."""
    env = {name: value.format(tmp=tmp_path) for name, value in VARIANTS[variant].items()}
    assert built(tmp_path / "dist", cwd=tmp_path, **env).read_bytes() == pyz.read_bytes()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_umask_does_not_matter(pyz: Path, tmp_path: Path, umask: int) -> None:
    """The bytes and the file's own mode are the same; all users may run it."""
    again = built(tmp_path, umask=umask)
    assert again.read_bytes() == pyz.read_bytes()
    assert again.stat().st_mode & 0o777 == 0o755


def test_another_copy_of_the_sources_gives_the_same(
    pyz: Path, tmp_path: Path, project: Path
) -> None:
    """Place, order, modes, times and litter of the source tree do not matter."""
    (project / "kuwa_min" / "__pycache__").mkdir()
    for litter in ("__pycache__/old.pyc", "#cli.py#", ".hidden.py", "cli.py.orig", "notes.txt"):
        (project / "kuwa_min" / litter).write_text("litter", encoding="utf-8")
    assert built(tmp_path, project=project).read_bytes() == pyz.read_bytes()


def test_other_sources_give_another_file(pyz: Path, tmp_path: Path, project: Path) -> None:
    """The manifest's sha256 changes with the sources."""
    with (project / "kuwa_min" / "errors.py").open("a", encoding="utf-8") as source:
        source.write("# a change\n")
    changed = manifest_of(built(tmp_path, project=project))
    assert changed["packages"][0]["sha256"] != manifest_of(pyz)["packages"][0]["sha256"]


def test_the_build_time_is_source_date_epoch(tmp_path: Path) -> None:
    """It is UTC, whatever the time zone."""
    path = built(tmp_path, SOURCE_DATE_EPOCH="1700000000", TZ="Asia/Taipei")
    assert manifest_of(path)["built_at"] == "2023-11-14 22:13:20"


def listed() -> list[str]:
    """List what a file without libraries holds of us, from the project's root and sorted."""
    found = sources("debug", with_payload=False)
    return [path.relative_to(ROOT).as_posix() for path in found]


# -- what is inside


def manifest_of(path: Path) -> dict[str, object]:
    """Read the manifest out of a file."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# slow\ndelay: soon\n", "c.yaml: delay must be a number, not 'soon'"),
        ("delay: &slow 0.5\n", "c.yaml: is malformed: line 1: '&slow 0.5' is not understood"),
    ],
)
def test_the_file_reads_yaml_without_a_library(
    pyz: Path, tmp_path: Path, text: str, words: str
) -> None:
    """Here Python has none at all; PyYAML would read the second text."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    done = run(sys.executable, "-S", pyz, "debug", "-c", path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_sha256_file_is_what_sha256sum_checks(pyz: Path) -> None:
    """One line, relative to the folder."""
    digest = hashlib.sha256(pyz.read_bytes()).hexdigest()
    beside = pyz.with_name("kuwa-debug.pyz.sha256")
    assert beside.read_text(encoding="ascii") == f"{digest}  kuwa-debug.pyz\n"
    names = sorted(path.name for path in pyz.parent.iterdir())
    assert names == [f"kuwa-debug.pyz{end}" for end in DOCUMENTS]


def test_the_documents_name_what_is_inside(pyz: Path) -> None:
    """A bill of materials and the licenses; they name nothing but us."""
    bill = json.loads(pyz.with_name(f"{pyz.name}.cdx.json").read_text(encoding="utf-8"))
    (part,) = bill["components"]
    own = manifest_of(pyz)["packages"][0]  # type: ignore[index]
    assert (part["name"], part["version"]) == ("kuwa-min", own["version"])
    assert part["hashes"] == [{"alg": "SHA-256", "content": own["sha256"]}]
    report = pyz.with_name(f"{pyz.name}.licenses.txt").read_text(encoding="utf-8").splitlines()
    assert report[0] == f"Licences of kuwa-min {own['version']}, debug"
    assert report[-1] == "No package in this file says that it is proprietary."


def test_the_listing_is_sources_launcher_and_facts(pyz: Path) -> None:
    """Every source travels exactly once; nothing of shiv's bootstrap does."""
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert names == sorted(names)
    root = {name for name in names if not name.startswith("site-packages/")}
    blocks = {name for name in root if name.startswith(("bytecode-", "late-"))}
    launcher = {"__main__.py", "kuwa_launch.py", "kuwa_launch.pyc"}
    assert root == {*launcher, "environment.json", "manifest.json", *blocks}
    assert len(blocks) == 2
    inside = [name for name in listed() if name != "kuwa_min/launch.py"]
    folders = {name for name in names if name.endswith("/")}
    drop_in = "site-packages/kuwa_min/drop_in/"
    assert folders == {drop_in, f"{drop_in}kuwa/"}
    assert inside == [name[14:] for name in names if name not in root | folders]


def test_every_entry_has_one_time_and_one_mode(pyz: Path) -> None:
    """Neither tells anything about the machine that built it."""
    with zipfile.ZipFile(pyz) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    modes = {entry.external_attr >> 16 for entry in entries if not entry.is_dir()}
    assert modes == {0o100644}


def test_no_entry_knows_where_it_was_built(tmp_path: Path, project: Path) -> None:
    """No path of the sources, of the temporary folder, of the output or of the Python is inside."""
    path = built(tmp_path / "dist", project=project, TMPDIR=str(tmp_path))
    with zipfile.ZipFile(path) as archive:
        inside = b"\n".join(archive.read(name) for name in archive.namelist())
    for place in (tmp_path, project, "kuwa-build-", sys.prefix, sys.base_prefix, Path.home()):
        assert str(place).encode() not in inside


def test_the_manifest_says_what_is_inside(pyz: Path) -> None:
    """Version, target and the hash of the sources that sha256sum would give."""
    listing = "".join(
        f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n" for name in listed()
    )
    found = manifest_of(pyz)
    version = found["version"]
    assert found == {
        "name": "kuwa-min",
        "version": version,
        "backend": "debug",
        "executors": {},
        "built_for": {**ANYWHERE, "bytecode": f"3.{sys.version_info.minor}"},
        "packages": [
            {
                "name": "kuwa-min",
                "version": version,
                "wheel": "",
                "sha256": hashlib.sha256(listing.encode()).hexdigest(),
                "license": "MIT",
                "spdx": True,
            }
        ],
        "payloads": [],
        "host_packages": [],
        "shiv_version": "1.0.8",
        "built_at": "1980-01-01 00:00:00",
    }


def test_shiv_info_reads_the_file(pyz: Path) -> None:
    """Another tool, shiv's own, finds its environment.json."""
    done = run(sys.executable, "-c", "from shiv.info import main; main()", "--json", pyz)
    assert done.returncode == 0
    assert json.loads(done.stdout)["entry_point"] == "kuwa_min.cli:main"


# -- it runs


@pytest.mark.parametrize("python", [sys.executable, *OTHERS], ids=str)
def test_every_python_says_the_version(pyz: Path, python: str | int, tmp_path: Path) -> None:
    """The Python that built it and every other one run it, without a warning or a trace."""
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    path = python if isinstance(python, str) else python_of(f"3.{python}")
    done = run(path, "-Werror", pyz, "--version", HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"kuwa-min {manifest_of(pyz)['version']}\nbackend     debug\n")
    assert not list(home.iterdir())


PACKAGE = {
    "parrot/__init__.py": '''"""[Tool] Say it again."""
from kuwa_min import LLMExecutor
from backends._parrot import BEGINNING
class Parrot(LLMExecutor):
    """Repeat."""
    def llm_compute(self, history, modelfile):
        from .work.beak import END
        yield f"{BEGINNING}{history[-1]['content']}{END}"
''',
    "parrot/work/__init__.py": "",
    "parrot/work/beak.py": "from ..._parrot.deep import END",
    "_parrot/__init__.py": "BEGINNING = 'said: '",
    "_parrot/deep.py": "END = '!'",
}
ASK_PARROT = """
import sys
sys.path.insert(0, sys.argv[1])
import kuwa_launch
kuwa_launch.use_bytecode(kuwa_launch.use_site_packages())
from backends.parrot import Parrot
print(*Parrot().llm_compute([{"content": "hello"}], None))
"""


def test_a_backend_that_is_a_folder_is_built_and_runs(tmp_path: Path, project: Path) -> None:
    """With the shared folder that it imports by its full name."""
    for name, text in PACKAGE.items():
        path = project / "backends" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    file = built(tmp_path / "dist", backend="parrot", project=project)
    assert "[Tool] Say it again." in run(sys.executable, file, "--list").stdout
    for python in (sys.executable, python_of(OTHER)):
        assert run(python, file, "parrot", "--help").returncode == 0
        done = run(python, "-c", ASK_PARROT, file)
        assert (done.stderr, done.stdout) == ("", "said: hello!\n")


@pytest.mark.parametrize("words", [("debug", "--help"), ("--help",), ("kernel", "--help")])
def test_the_file_answers_like_the_checkout(pyz: Path, words: tuple[str, ...]) -> None:
    """The help is the same, whether it comes from the bytecode or from the sources."""
    inside = run(sys.executable, pyz, *words)
    outside = run(sys.executable, "-m", "kuwa_min", *words, PYTHONPATH=str(ROOT))
    as_words = outside.stdout.replace("python -m kuwa_min", pyz.name).split()
    assert (inside.returncode, inside.stderr, inside.stdout.split()) == (0, "", as_words)


def test_the_file_lists_what_it_has(pyz: Path) -> None:
    """No backend that needs libraries."""
    lines = run(sys.executable, pyz, "--list").stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[2:-2]] == ["debug", "dummy"]


def test_the_python_that_built_it_compiles_nothing(pyz: Path) -> None:
    """Every module that a start imports comes out of the bytecode."""
    done = run(sys.executable, "-c", COUNT_COMPILED, pyz, "debug", "--help")
    assert done.stdout.splitlines()[-1] == "[]"


# -- it refuses


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which build.py refused."""
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


def test_no_backend_is_a_usage_error() -> None:
    """The usage is shown, with what is missing."""
    done = run_build()
    assert done.returncode == 2
    assert "usage: build.py" in done.stderr
    assert "name at least one backend" in done.stderr


def test_an_unknown_backend_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    """The line names the ones there are; the known one before it is not built either."""
    line = refused(run_build("debug", "debgu", "--output", tmp_path / "dist"))
    known = ", ".join(backend_infos())
    assert line == f"build.py: error: no backend is called 'debgu'; known are {known}"
    assert not (tmp_path / "dist").exists()


def test_every_backend_is_offered() -> None:
    """Those that need libraries too."""
    done = run_build("--list")
    names = [line.partition(":")[0].strip() for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert names == list(backend_infos())


TOGETHER = (
    ("huggingface --cpu --cuda cu128", "--cpu and --cuda cannot both be"),
    ("debug huggingface --vulkan", "debug takes no llama.cpp along: leave --vulkan out"),
    ("huggingface --embed_model", "--embed_model needs --model PATH"),
    ("huggingface --model {model}", "--model goes with --embed_model (inside the file) or --kit"),
    ("debug huggingface --lock {tmp}/a.lock", "--lock and --kit are for one backend at a time"),
    ("debug dummy --kit {tmp}/kit", "--lock and --kit are for one backend at a time"),
    ("debug --model {model} --embed_model", "debug has no use for a model"),
    ("debug --model {model} --kit {tmp}/kit", "debug has no use for a model"),
    ("huggingface --model nowhere --kit {tmp}/kit", "nowhere is neither a folder with a model nor"),
    ("huggingface --python 2.7", "--python is '2.7'; give a minor version from 3.10 on"),
    ("huggingface --python 3.12.1", "--python is '3.12.1'"),
    ("huggingface --platform windows", "--platform is 'windows'; known are manylinux_2_17"),
    ("huggingface --no_index --lock {tmp}/no.lock", "is not a kuwa lock"),
    ("huggingface --no_index --wheels {tmp}/none", "there is no folder {tmp}/none"),
    ("llamacpp --no_index --platform manylinux_2_28_aarch64", "build its wheel on such a machine"),
    ("--cuda llamacpp", "--cuda: it takes 'llamacpp' for its value: name what to build first"),
    ("debug --with numpy", "debug uses no libraries: --with is for a backend that does"),
    ("debug --sign KEY", "--sign signs a kit: add --kit DIR"),
    ("debug --kit {tmp}/kit --sign KEY", "--sign KEY: there is no such file; ssh-keygen -t"),
    ("debug --kit {tmp}", "{tmp} is not empty: name a folder that is empty or not there yet"),
)


@pytest.mark.parametrize(("words", "expected"), TOGETHER)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: str, expected: str
) -> None:
    """Said before anything is built; a process for each would take ten times as long."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    (tmp_path / "no.lock").write_text("numpy==1\n", encoding="ascii")
    command = [word.format(model=model, tmp=tmp_path) for word in words.split()]
    folders = ("--output", tmp_path / "dist", "--wheelhouse", tmp_path / "wheelhouse")
    code = build_here(*command, *folders)
    output, errors = capfd.readouterr()
    assert (code, output) == (2, "")
    line = errors.splitlines()[-1]
    assert line.startswith("build.py: error: ")
    assert expected.format(tmp=tmp_path) in line
    assert not (tmp_path / "dist").exists()


def test_a_missing_shiv_is_one_line(tmp_path: Path) -> None:
    """It says how to get it."""
    command = ("-c", WITHOUT_SHIV, ROOT / "build.py", "debug", "--output", tmp_path / "dist")
    line = refused(run(sys.executable, *command))
    assert line == "build.py: error: shiv is missing: pip install shiv==1.0.8 (or run make)"


def test_an_impossible_output_or_time_is_one_line(tmp_path: Path) -> None:
    """Say what was wrong with it."""
    (tmp_path / "file").touch()
    assert "file" in refused(run_build("debug", "--output", tmp_path / "file"))
    line = refused(run_build("debug", "--output", tmp_path, SOURCE_DATE_EPOCH="now"))
    assert line == "build.py: error: SOURCE_DATE_EPOCH is 'now', not a number of seconds"


def test_a_new_build_leaves_a_running_file_alone(tmp_path: Path) -> None:
    """The old file's bytes stay behind an open handle: the name gets a new file."""
    with built(tmp_path).open("rb") as old:
        before = old.read()
        built(tmp_path, SOURCE_DATE_EPOCH="1700000000")
        old.seek(0)
        assert old.read() == before


# -- with libraries

# What tells how it was started when the backend imports it.
TORCH = b"import sys\nraise ImportError(f'started with {sys.argv[1:]}')\n"
HEAVY_VARIANTS = {
    "again": {},
    "another time zone": {"TZ": "Asia/Taipei"},
    "another hash seed": {"PYTHONHASHSEED": "7"},
    "another temporary folder": {"TMPDIR": "{tmp}"},
    "another home": {"HOME": "{tmp}"},
    "an optimised builder": {"PYTHONOPTIMIZE": "2"},
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make stubs of huggingface's libraries; torch can be imported."""
    return make_libraries(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make stubs whose torch tells how it was started."""
    extra = {"torch": {"torch/__init__.py": TORCH}}
    return make_libraries(tmp_path_factory.mktemp("failing"), extra)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """Build kuwa-huggingface.pyz once, with a lock beside its folder."""
    folder = tmp_path_factory.mktemp("heavy")
    return heavily_built(folder / "dist", wheels, "--lock", folder / "some.lock")


def heavily_built(output: Path, wheels: Path, *options: object) -> Path:
    """Build the file from these wheels; return its path."""
    done = build(output, wheels, *options)
    assert done.returncode == 0, done.stderr
    path = output / "kuwa-huggingface.pyz"
    assert done.stdout.splitlines()[0] == f"{path}  {path.stat().st_size:,} bytes"
    return path


def importable() -> dict[str, dict[str, bytes]]:
    """Return modules with all the names that the backend imports, by library."""
    found: dict[str, bytes] = {}
    requires = backend_infos()["huggingface"].requires
    for statement in import_statements("huggingface", requires):
        (node,) = ast.parse(statement).body
        if isinstance(node, ast.Try):  # a library need not have it
            continue
        assert isinstance(node, ast.Import | ast.ImportFrom)
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules = modules or [alias.name for alias in node.names]
        for module in modules:
            path = f"{module.replace('.', '/')}/__init__.py"
            taken = node.names if isinstance(node, ast.ImportFrom) else []
            lines = "".join(f"{alias.name} = None\n" for alias in taken)
            found[path] = found.get(path, b"") + lines.encode()
    return {
        name: {path: text for path, text in found.items() if path.startswith(f"{name}/")}
        for name in requires
    }


def bytes_of(path: Path) -> dict[str, bytes]:
    """Read a file and its documents."""
    return {end: path.with_name(path.name + end).read_bytes() for end in DOCUMENTS}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Make a folder that looks like a model."""
    return write_model(tmp_path / "a model")


@pytest.mark.parametrize("variant", HEAVY_VARIANTS)
def test_two_builds_from_one_lock_are_the_same(
    heavy: Path, wheels: Path, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its documents; the wheels lie in another folder, the output too."""
    for name, value in HEAVY_VARIANTS[variant].items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    shutil.copytree(wheels, tmp_path / "copy")
    lock = shutil.copy(heavy.parents[1] / "some.lock", tmp_path / "copied.lock")
    again = heavily_built(tmp_path / "elsewhere", tmp_path / "copy", "--lock", lock)
    assert bytes_of(again) == bytes_of(heavy)
    assert lock.read_bytes() == (heavy.parents[1] / "some.lock").read_bytes()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_umask_does_not_matter_to_libraries(
    heavy: Path, wheels: Path, tmp_path: Path, umask: int
) -> None:
    """Neither to their modes nor to those of the file."""
    former = os.umask(umask)
    try:
        shutil.copytree(wheels, tmp_path / "copy")
        again = heavily_built(tmp_path / "dist", tmp_path / "copy")
    finally:
        os.umask(former)
    assert bytes_of(again) == bytes_of(heavy)
    assert again.stat().st_mode & 0o777 == 0o755


def test_nothing_is_left_behind(heavy: Path) -> None:
    """Of the folders that a build works in."""
    names = {path.name for path in heavy.parent.iterdir()}
    assert names == {"wheelhouse", *(heavy.name + end for end in DOCUMENTS)}


def test_bytecode_of_the_libraries_is_reproducible_too(tmp_path: Path) -> None:
    """And adds to what is unpacked."""
    some = make_libraries(tmp_path / "wheels", importable())
    one, two = (heavily_built(tmp_path / name, some, "--pyc") for name in ("one", "two"))
    assert bytes_of(one) == bytes_of(two)
    with_bytecode = Archive(str(one))
    paths = [file.path for file in with_bytecode.index(with_bytecode.payloads[0]).files]
    assert f"torch/__pycache__/__init__.{sys.implementation.cache_tag}.pyc" in paths


def test_what_is_never_needed_can_be_left_out(heavy: Path, tmp_path: Path) -> None:
    """It is another payload then."""
    extra = {"torch": {"torch/include/ATen.h": b"1" * 10_000, "torch/a.py": b""}}
    some = make_libraries(tmp_path / "wheels", extra)
    whole = heavily_built(tmp_path / "whole", some)
    pruned = heavily_built(tmp_path / "pruned", some, "--prune")
    assert payload_id(whole) != payload_id(pruned)
    archive = Archive(str(pruned))
    paths = {file.path for file in archive.index(archive.payloads[0]).files}
    assert "torch/a.py" in paths
    assert "torch/include/ATen.h" not in paths


def test_a_thin_file_leaves_torch_to_the_host(wheels: Path, tmp_path: Path) -> None:
    """It says so, and nothing of torch is inside."""
    thin = Archive(str(heavily_built(tmp_path / "dist", wheels, "--thin")))
    assert thin.manifest["host_packages"] == ["torch"]
    assert "torch" not in [package["name"] for package in thin.manifest["packages"]]
    paths = [file.path for file in thin.index(thin.payloads[0]).files]
    assert not [path for path in paths if path.startswith("torch/")]


def test_another_machine_can_be_built_for(wheels: Path, tmp_path: Path) -> None:
    """Its Python need not be here; the manifest says which it is."""
    target = ("--python", "3.13", "--platform", "manylinux_2_28_aarch64")
    archive = Archive(str(heavily_built(tmp_path / "dist", wheels, *target)))
    found = archive.manifest["built_for"]
    assert (found["python"], found["abi"], found["machine"]) == ("3.13", "cp313", "aarch64")


def test_other_tools_read_a_file_with_libraries(heavy: Path) -> None:
    """That of shiv, and every reader of zips."""
    done = run(sys.executable, "-c", "from shiv.info import main; main()", "--json", heavy)
    assert json.loads(done.stdout)["entry_point"] == "kuwa_min.cli:main"
    with zipfile.ZipFile(heavy) as archive:
        assert archive.testzip() is None
        assert "target" in archive.namelist()
    if unzip := shutil.which("unzip"):
        done = run(unzip, "-l", heavy)
        assert done.returncode in (0, 1)  # 1: it warns of the bytes in front, and goes on
        assert "site-packages/kuwa_min/cli.py" in done.stdout


def test_no_wheel_offline_is_one_refusal(tmp_path: Path) -> None:
    """It names the package, and no file is made."""
    (tmp_path / "empty").mkdir()
    done = build(tmp_path / "dist", tmp_path / "empty")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("build.py: error: ")
    assert "torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("dist/*.pyz*"))


def test_bytecode_needs_the_python_that_the_file_is_for(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and nothing is left."""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = build(tmp_path / "dist", wheels, "--pyc", "--python", OTHER)
    assert done.returncode == 2
    error = f"build.py: error: --pyc needs python{OTHER} on this machine, and there is none"
    assert done.stderr.splitlines()[-1] == error
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["wheelhouse"]


# -- the kit


def started(kit: Path, home: Path, *words: str) -> Done:
    """Run a kit's start script with a home of its own."""
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    return start(kit / "start.sh", *words, cwd=home, HOME=home, PATH=path)


def check_sums(kit: Path) -> None:
    """Let sha256sum check the kit, which is to name every file of it."""
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=kit, check=True)
    named = {line[66:] for line in (kit / "SHA256SUMS").read_text("utf-8").splitlines()}
    paths = (path for path in kit.rglob("*") if path.is_file())
    found = {path.relative_to(kit).as_posix() for path in paths}
    assert found - named == {"SHA256SUMS"}


def test_a_kit_starts_with_the_model_beside_it(failing: Path, model: Path, tmp_path: Path) -> None:
    """Carried elsewhere, its script starts the executor with the model; more words come after."""
    made = tmp_path / "made"
    heavily_built(tmp_path / "dist", failing, "--model", model, "--kit", made)
    kit = made.rename(tmp_path / "carried in")
    check_sums(kit)
    for name, text in MODEL.items():
        assert (kit / "model" / name).read_text(encoding="ascii") == text
    done = started(kit, tmp_path / "home", "huggingface", "--ignore_kernel", "--port", "0")
    words = ["huggingface", "--model_path", f"{kit}/model", "--ignore_kernel", "--port", "0"]
    assert done.code == 1
    assert f"started with {words}" in done.err


def test_a_model_inside_is_unpacked_and_named(failing: Path, model: Path, tmp_path: Path) -> None:
    """Beside the libraries in the cache; the second start finds it."""
    kit = tmp_path / "kit"
    options = ("--model", model, "--embed_model", "--kit", kit)
    file = heavily_built(tmp_path / "dist", failing, *options)
    check_sums(kit)
    assert not (kit / "model").exists()
    model_id = Archive(str(file)).payloads[1]["id"]
    place = tmp_path / "home" / ".cache" / "kuwa" / model_id / "tree"
    for _ in range(2):
        done = started(kit, tmp_path / "home", "huggingface", "--ignore_kernel")
        words = ["huggingface", "--model_path", str(place), "--ignore_kernel"]
        assert f"started with {words}" in done.err
    for name, text in MODEL.items():
        assert (place / name).read_text(encoding="ascii") == text
    assert "unpacking" not in done.err


def test_a_kit_of_a_file_without_libraries_starts(tmp_path: Path) -> None:
    """It needs a Python only, and writes nothing."""
    done = run_build("debug", "--output", tmp_path / "dist", "--kit", tmp_path / "kit")
    assert (done.returncode, done.stderr) == (0, "")
    check_sums(tmp_path / "kit")
    told = started(tmp_path / "kit", tmp_path / "home", "debug", "--help")
    assert (told.code, told.err) == (0, "")
    assert not list((tmp_path / "home").iterdir())


def test_a_signed_kit_is_verified_as_its_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ssh-keygen alone, and by a file, which refuses what was changed."""
    without_agent_and_terminal(monkeypatch)
    key, kit = make_key(tmp_path / "key"), tmp_path / "kit"
    done = run_build("dummy", "--output", tmp_path / "dist", "--kit", kit, "--sign", key)
    assert (done.returncode, done.stderr) == (0, "")
    signers = (kit / "allowed_signers").replace(tmp_path / "FILE")
    shutil.copy(signers, kit / "allowed_signers")
    readme = (kit / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ +((?:ssh-keygen -Y verify|test) .*)$", readme, re.MULTILINE)
    page = (ROOT / "docs" / "air-gap.md").read_text(encoding="utf-8")
    assert all(f"\n{command}\n" in page for command in commands)
    shell = ["sh", "-ec", "\n".join(commands).replace("-f FILE", "-f ../FILE")]
    done = subprocess.run(shell, cwd=kit, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.rpartition(" ")[2] in readme  # the fingerprint
    assert second == "Nothing was added."
    home = tmp_path / "home"
    done_by_file = started(kit, home, "verify", "--signers", signers)
    assert (done_by_file.code, done_by_file.err) == (0, ""), done_by_file
    with (kit / "kuwa.args").open("a", encoding="utf-8") as file:
        file.write("--kernel_url=http://127.0.0.1:1/\n")
    refused = started(kit, home, "verify", "--signers", signers)
    assert refused.code == 1
    assert "fault: kuwa.args is not what was signed; if you wrote into it" in refused.out
    last = refused.err.splitlines()[-1]
    assert f"error: do not use the kit {kit} (1 fault, named above)" in last


def test_a_machine_that_is_named_in_full_can_be_built_for_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a laptop for which no file could be made; what is not said is taken from here."""
    command, asked = importlib.import_module("build"), []

    def stop(request: LibraryRequest, *_: object) -> None:
        asked.append(request.target)
        raise UsageError("far enough")

    def other_kind() -> TargetPython:
        raise UsageError("this machine is of another kind")

    monkeypatch.setattr(find, "find_libraries", stop)
    monkeypatch.setattr(TargetPython, "of_this_machine", other_kind)
    words = ["huggingface", "--output", str(tmp_path), "--python", "3.12"]
    assert command.main([*words, "--platform", "manylinux_2_28_x86_64"]) == 2
    assert asked == [TargetPython("3.12", "manylinux_2_28_x86_64")]
    assert command.main(words) == 2
    assert len(asked) == 1
