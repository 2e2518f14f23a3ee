"""build.py: one reproducible file per backend, small, complete, and free of its birthplace."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from programs import ROOT
from pythons import python_of

pytestmark = pytest.mark.slow  # real processes, time limits or builds

pytest.importorskip("shiv", reason="build.py needs shiv: pip install shiv==1.0.8")

LIMIT = 150_000
OTHERS = [minor for minor in range(10, 15) if minor != sys.version_info.minor]
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
HUGE = '"""[Model] A heavy one."""\n\nREQUIRES: tuple[str, ...] = ("torch", "transformers")\n'
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
    """The bytes and the file's own mode are the same; everybody may run it."""
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


# -- what is inside


def manifest_of(path: Path) -> dict[str, object]:
    """Read the manifest out of a file."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def test_the_file_is_small(pyz: Path) -> None:
    """Keep the promise of the README."""
    assert pyz.stat().st_size < LIMIT


def test_the_sha256_file_is_what_sha256sum_checks(pyz: Path) -> None:
    """One line, relative to the folder."""
    digest = hashlib.sha256(pyz.read_bytes()).hexdigest()
    beside = pyz.with_name("kuwa-debug.pyz.sha256")
    assert beside.read_text(encoding="ascii") == f"{digest}  kuwa-debug.pyz\n"
    assert sorted(path.name for path in pyz.parent.iterdir()) == [pyz.name, beside.name]


def test_the_listing_is_sources_launcher_and_facts(pyz: Path) -> None:
    """Every source travels exactly once; nothing of shiv's bootstrap does."""
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert names == sorted(names)
    root = {name for name in names if not name.startswith("site-packages/")}
    bytecode = next(name for name in root if name.startswith("bytecode-"))
    assert root == {"__main__.py", "environment.json", "kuwa_launch.py", "manifest.json", bytecode}
    sources = [
        path.relative_to(ROOT).as_posix()
        for package in ("kuwa_min", "backends")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".html") and path.name != "launch.py"
    ]
    assert sorted(sources) == [name[14:] for name in names if name not in root]


def test_every_entry_has_one_time_and_one_mode(pyz: Path) -> None:
    """Neither tells anything about the machine that built it."""
    with zipfile.ZipFile(pyz) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}


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
        f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(
            path.relative_to(ROOT).as_posix()
            for package in ("kuwa_min", "backends")
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".html")
        )
    )
    found = manifest_of(pyz)
    version = found["version"]
    assert found == {
        "name": "kuwa-min",
        "version": version,
        "backend": "debug",
        "built_for": {
            "python": ">=3.10",
            "implementation": sys.implementation.name,
            "bytecode": f"3.{sys.version_info.minor}",
            "platform": "any",
        },
        "packages": [
            {
                "name": "kuwa-min",
                "version": version,
                "sha256": hashlib.sha256(listing.encode()).hexdigest(),
            }
        ],
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


@pytest.mark.parametrize("words", [("--list",), ("debug", "--help"), ("--help",)])
def test_the_file_answers_like_the_checkout(pyz: Path, words: tuple[str, ...]) -> None:
    """--list and --help say the same, whether they come from the bytecode or from the sources."""
    inside = run(sys.executable, pyz, *words)
    outside = run(sys.executable, "-m", "kuwa_min", *words, PYTHONPATH=str(ROOT))
    as_words = outside.stdout.replace("python -m kuwa_min", pyz.name).split()
    assert (inside.returncode, inside.stderr, inside.stdout.split()) == (0, "", as_words)


def test_the_python_that_built_it_compiles_nothing(pyz: Path) -> None:
    """Every module of ours comes out of the bytecode."""
    done = run(sys.executable, "-c", COUNT_COMPILED, pyz, "--version")
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
    assert line == "build.py: error: no backend is called 'debgu'; known are debug, dummy"
    assert not (tmp_path / "dist").exists()


def test_a_heavy_backend_is_refused_honestly(tmp_path: Path, project: Path) -> None:
    """The line names the libraries; --list does not offer it."""
    (project / "backends" / "huge.py").write_text(HUGE, encoding="utf-8")
    line = refused(run_build("huge", "--output", tmp_path / "dist", project=project))
    assert "huge needs torch, transformers: this build.py cannot yet package" in line
    names = [line.split(":")[0].strip() for line in run_list(project)]
    assert names == ["debug", "dummy"]


def run_list(project: Path) -> list[str]:
    """Return the lines of --list."""
    done = run_build("--list", project=project)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_missing_shiv_is_one_line(tmp_path: Path) -> None:
    """It says how to get it."""
    command = ("-S", ROOT / "build.py", "debug", "--output", tmp_path / "dist")
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
