"""The carry-in kit: whole, checkable, and started for real from places with difficult names."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from kuwa_min.bundle.manifest import Manifest
from kuwa_min.errors import UsageError
from kuwa_min.packing.kit import folder as kit
from kuwa_min.packing.kit.folder import make_kit
from kuwa_min.packing.kit.texts import texts
from tests.support.manifests import EXAMPLE, HEAVY

HERE = f"3.{sys.version_info.minor}"
PLACE = "a folder with späces, 中文 and 'quotes'"
PRINT_ARGUMENTS = "import json, sys\nprint(json.dumps(sys.argv))\n"
WRITTEN = {"README.md", "SHA256SUMS", "kuwa.args", "kuwa.service", "start.sh"}
BESIDE = (".sha256", ".cdx.json", ".licenses.txt")


def make_archive(folder: Path, manifest: Manifest, name: str = "kuwa-huggingface.pyz") -> Path:
    """Make a file that prints its arguments, with this manifest inside and documents beside."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "__main__.py").write_text(PRINT_ARGUMENTS, encoding="utf-8")
    (source / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    archive = folder / name
    zipapp.create_archive(source, archive)
    for suffix in BESIDE:
        (folder / f"{name}{suffix}").write_text(f"{suffix}\n", encoding="utf-8")
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Give a file for the Python that runs this."""
    return make_archive(tmp_path / "dist", for_python(HERE))


def for_python(python: str, abi: str = "any") -> Manifest:
    """Return a manifest for this Python."""
    return {**HEAVY, "built_for": {**HEAVY["built_for"], "python": python, "abi": abi}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a model as a hub's cache has it: links into a folder of blobs, and a real subfolder."""
    cache = tmp_path / "models--somebody--something"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    (snapshot / "onnx").mkdir(parents=True)
    (blobs / "weights").write_bytes(b"weights" * 1000)
    (blobs / "config").write_text("{}", encoding="utf-8")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    (snapshot / "onnx" / "config.json").symlink_to("../../../blobs/config")
    (snapshot / ".gitattributes").write_text("* text\n", encoding="utf-8")
    return snapshot


def listing(folder: Path) -> set[str]:
    """Return the files of a folder, relative to it."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in files}


def arguments_of(folder: Path) -> list[str]:
    """Read kuwa.args as the program does."""
    lines = (folder / "kuwa.args").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def check_sums(folder: Path) -> subprocess.CompletedProcess[str]:
    """Let sha256sum check the kit."""
    command = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# -- what is in it


def test_the_kit_holds_file_documents_model_and_texts(
    tmp_path: Path, archive: Path, model: Path
) -> None:
    """Hidden files too; what was a link is a file."""
    folder = tmp_path / PLACE
    make_kit(folder, archive, "huggingface", model)
    program = {archive.name, *(f"{archive.name}{suffix}" for suffix in BESIDE)}
    weights = {"config.json", "model.safetensors", ".gitattributes", "onnx/config.json"}
    assert listing(folder) == WRITTEN | program | {f"model/{name}" for name in weights}
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert (folder / "model" / "model.safetensors").read_bytes() == b"weights" * 1000
    assert (folder / archive.name).read_bytes() == archive.read_bytes()


def test_missing_documents_are_left_out(tmp_path: Path, archive: Path) -> None:
    """The README names the kit's files."""
    archive.with_name(f"{archive.name}.cdx.json").unlink()
    make_kit(tmp_path / "kit", archive, "huggingface", None)
    assert f"{archive.name}.cdx.json" not in listing(tmp_path / "kit")
    readme = (tmp_path / "kit" / "README.md").read_text(encoding="utf-8")
    assert ".cdx.json" not in readme
    assert f"{archive.name}.licenses.txt" in readme


def test_files_are_linked_where_that_works(tmp_path: Path, archive: Path, model: Path) -> None:
    """On one disk a kit costs no space for file and model."""
    make_kit(tmp_path / "kit", archive, "huggingface", model)
    weights = tmp_path / "kit" / "model" / "model.safetensors"
    assert weights.samefile(model / "model.safetensors")
    assert (tmp_path / "kit" / archive.name).samefile(archive)


def test_files_are_copied_where_links_do_not_work(
    tmp_path: Path, archive: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another disk: the same contents, and the file may be run."""

    def refuse(path: Path, source: Path) -> None:
        raise OSError(errno.EXDEV, f"{source} is on another disk than {path}")

    archive.chmod(0o600)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    make_kit(tmp_path / "kit", archive, "huggingface", model)
    copy = tmp_path / "kit" / archive.name
    assert not copy.samefile(archive)
    assert copy.read_bytes() == archive.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o755
    assert not check_sums(tmp_path / "kit").returncode


def test_sha256sum_says_that_the_kit_is_whole(tmp_path: Path, archive: Path, model: Path) -> None:
    """The real one; every file is in the list, in order, and a changed one is found."""
    folder = tmp_path / PLACE
    make_kit(folder, archive, "huggingface", model)
    done = check_sums(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = (folder / "SHA256SUMS").read_bytes().decode().splitlines()
    names = [line[66:] for line in lines]
    assert set(names) == listing(folder) - {"SHA256SUMS"}
    assert names == sorted(names)
    (folder / "kuwa.args").write_text("dummy\n", encoding="utf-8")
    assert check_sums(folder).stdout == "kuwa.args: FAILED\n"


def test_two_kits_are_the_same(tmp_path: Path, archive: Path, model: Path) -> None:
    """Nothing in the texts depends on where or when."""
    kits = [tmp_path / "one", tmp_path / PLACE]
    for folder in kits:
        make_kit(folder, archive, "huggingface", model)
    assert len({(folder / "SHA256SUMS").read_bytes() for folder in kits}) == 1
    for name in WRITTEN:
        text = (kits[0] / name).read_bytes()
        assert b"\r" not in text
        assert text.endswith(b"\n")
        assert str(tmp_path).encode() not in text
        assert name == "SHA256SUMS" or not re.search(rb"(?<!\$)@\w+@", text)


# -- the defaults


def test_the_defaults_name_backend_and_model(tmp_path: Path, archive: Path, model: Path) -> None:
    """One argument a line."""
    make_kit(tmp_path / "kit", archive, "huggingface", model)
    assert arguments_of(tmp_path / "kit") == ["huggingface", "--model_path", "{here}/model"]


def test_a_single_file_is_a_model_too(tmp_path: Path, archive: Path) -> None:
    """It keeps its name, also when it is a link into a cache."""
    (tmp_path / "blob").write_bytes(b"GGUF")
    (tmp_path / "tiny 模型.gguf").symlink_to("blob")
    make_kit(tmp_path / "kit", archive, "llamacpp", tmp_path / "tiny 模型.gguf")
    arguments = ["llamacpp", "--model_path", "{here}/model/tiny 模型.gguf"]
    assert arguments_of(tmp_path / "kit") == arguments
    assert (tmp_path / "kit" / "model" / "tiny 模型.gguf").read_bytes() == b"GGUF"


def test_a_model_in_several_files_travels_whole(tmp_path: Path, archive: Path) -> None:
    """llama.cpp is given the first and finds the others beside it."""
    names = [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    make_kit(tmp_path / "kit", archive, "llamacpp", tmp_path / names[0])
    assert {f"model/{name}" for name in names} <= listing(tmp_path / "kit")
    (tmp_path / names[2]).unlink()
    with pytest.raises(UsageError, match=rf"one of 3 files; {names[2]} is missing"):
        make_kit(tmp_path / "another", archive, "llamacpp", tmp_path / names[0])


def test_without_a_model_there_is_no_option(tmp_path: Path, archive: Path) -> None:
    """A file may need none, or carry it inside."""
    make_kit(tmp_path / "kit", archive, "dummy", None)
    assert arguments_of(tmp_path / "kit") == ["dummy"]
    assert "`model/`" not in (tmp_path / "kit" / "README.md").read_text(encoding="utf-8")


# -- it starts


@pytest.fixture
def pythons(tmp_path: Path) -> Path:
    """Give a folder for commands; only what a test puts there is found first."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dirname").symlink_to(str(shutil.which("dirname")))
    return tmp_path / "bin"


def add_python(folder: Path, name: str, command: str = f'exec "{sys.executable}" "$@"') -> None:
    """Put a Python of this name where start.sh looks."""
    (folder / name).write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def start(
    kit_folder: Path | str, pythons: Path, *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run start.sh with the system's sh, from another folder."""
    return subprocess.run(
        ["/bin/sh", f"{kit_folder}/start.sh", *words],
        cwd=cwd,
        env={"PATH": str(pythons), "LC_ALL": "C.UTF-8", "CDPATH": "/tmp:/"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("name", ["kuwa-huggingface.pyz", "it's a $HOME 檔案.pyz"])
def test_the_script_starts_the_file_from_anywhere(tmp_path: Path, pythons: Path, name: str) -> None:
    """Arguments arrive as they are; the paths may hold anything."""
    file = make_archive(tmp_path / "dist", for_python(HERE), name)
    folder, words = (
        tmp_path / PLACE,
        ["huggingface", "--system_prompt", "two  words", "您好", "*", ""],
    )
    make_kit(folder, file, "huggingface", None)
    add_python(pythons, f"python{HERE}")
    done = start(folder, pythons, *words, cwd=Path("/"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [str(folder / name), *words]


def test_the_script_starts_from_a_relative_path(
    tmp_path: Path, archive: Path, pythons: Path
) -> None:
    """Also from a folder whose name looks like an option."""
    make_kit(tmp_path / "-P", archive, "huggingface", None)
    add_python(pythons, "python3")
    for cwd, path in ((tmp_path, "./-P"), (tmp_path / "-P", ".")):
        done = start(path, pythons, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == [str(tmp_path / "-P" / archive.name)]
    assert os.access(tmp_path / "-P" / "start.sh", os.X_OK)


def test_the_exit_code_is_the_programs(tmp_path: Path, pythons: Path) -> None:
    """The script becomes the program, so that signals reach it too."""
    file = make_archive(tmp_path / "dist", for_python(HERE))
    (tmp_path / "dist" / "source" / "__main__.py").write_text("raise SystemExit(7)\n")
    zipapp.create_archive(tmp_path / "dist" / "source", file)
    make_kit(tmp_path / "kit", file, "huggingface", None)
    add_python(pythons, "python3")
    assert start(tmp_path / "kit", pythons).returncode == 7
    assert "exec " in (tmp_path / "kit" / "start.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["exit 127", "echo no >&2; exit 1", "echo talk; exit 1"])
def test_a_python_that_does_not_suit_is_passed_over(
    tmp_path: Path, archive: Path, pythons: Path, broken: str
) -> None:
    """A shim without its Python, or another minor under the name: the next one is tried."""
    make_kit(tmp_path / "kit", archive, "huggingface", None)
    add_python(pythons, f"python{HERE}", broken)
    add_python(pythons, "python3")
    assert json.loads(start(tmp_path / "kit", pythons).stdout.replace("talk\n", ""))


def test_no_python_is_two_lines_and_code_3(tmp_path: Path, pythons: Path) -> None:
    """It says which one is needed and where it looked; a service does not try again."""
    file = make_archive(tmp_path / "dist", for_python("3.9"))
    make_kit(tmp_path / "kit", file, "huggingface", None)
    add_python(pythons, "python3")
    done = start(tmp_path / "kit", pythons)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == [
        "start.sh: Python 3.9 is needed, and none of these is that: python3.9 python3.",
        f"If it is somewhere else: /path/to/python {tmp_path}/kit/{file.name}",
    ]


@pytest.mark.parametrize(
    ("python", "abi", "tried"),
    [
        ("3.12", "cp312", "python3.12 python3"),
        ("3.13", "cp313t", "python3.13t python3"),
        (">=3.13", "any", "python3 python3.15 python3.14 python3.13"),
    ],
)
def test_the_script_looks_for_what_the_manifest_says(
    tmp_path: Path, python: str, abi: str, tried: str
) -> None:
    """Exactly one minor, or any from one on."""
    file = make_archive(tmp_path / "dist", for_python(python, abi))
    make_kit(tmp_path / "kit", file, "huggingface", None)
    assert f"for python in {tried}; do" in (tmp_path / "kit" / "start.sh").read_text("utf-8")


# -- what it says


def test_the_readme_has_the_numbers_in_both_languages(
    tmp_path: Path, archive: Path, model: Path
) -> None:
    """Disk space from the manifest; a page."""
    make_kit(tmp_path / "kit", archive, "huggingface", model)
    readme = (tmp_path / "kit" / "README.md").read_text(encoding="utf-8")
    assert "unpacks 21,170 files, 4.7 GB, into `~/.cache/kuwa`" in readme
    assert "會把 21,170 個檔案（4.7 GB）解開到 `~/.cache/kuwa`" in readme
    assert "| `model/` | the model, 7.0 KB |" in readme
    assert "CUDA 13.0 with NVIDIA driver 580.65 or newer" in readme
    for word in (
        "sha256sum -c",
        "--check",
        "--kernel_url",
        "systemctl enable",
        "--embedded_kernel",
    ):
        english, chinese = readme.split("## 繁體中文")
        assert word in english
        assert word in chinese


def test_the_readme_of_a_file_without_payload_says_so(tmp_path: Path) -> None:
    """Nothing is unpacked, nothing is left behind."""
    file = make_archive(tmp_path / "dist", EXAMPLE, "kuwa-debug.pyz")
    make_kit(tmp_path / "kit", file, "debug", None)
    readme = (tmp_path / "kit" / "README.md").read_text(encoding="utf-8")
    assert "nothing is unpacked" in readme
    assert "不需解開" in readme
    assert ".cache/kuwa" not in readme
    assert "except Python 3.10 or newer" in readme


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
@pytest.mark.parametrize("allowed", ["", "10.0.0.2 10.0.0.0/24 2001:db8::/32"])
def test_systemd_understands_the_unit(tmp_path: Path, archive: Path, allowed: str) -> None:
    """It finds nothing to complain about, also once the Kernel's address is filled in."""
    make_kit(tmp_path / "kit", archive, "huggingface", None)
    unit = tmp_path / "kit" / "kuwa.service"
    text = unit.read_text(encoding="utf-8")
    line = "# IPAddressAllow=10.0.0.2\n"
    assert text.count(line) == 1
    if allowed:
        unit.write_text(text.replace(line, f"IPAddressAllow={allowed}\n"), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "kuwa.service" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_unit_does_not_try_again_where_that_is_useless(tmp_path: Path, archive: Path) -> None:
    """Wrong options and wrong machines stay wrong; the libraries have a place of their own."""
    make_kit(tmp_path / "kit", archive, "huggingface", None)
    lines = (tmp_path / "kit" / "kuwa.service").read_text(encoding="utf-8").splitlines()
    wanted = {
        "RestartPreventExitStatus=2 3",
        "CacheDirectory=kuwa",
        "Environment=KUWA_MIN_ROOT=%C/kuwa",
    }
    assert wanted <= set(lines)


NETWORKS = {  # what the kit starts, and what it says of itself -> whether all but us is shut out
    ("huggingface", ""): True,
    ("dummy", ""): True,
    ("chatgpt", ""): False,
    ("geminipro", ""): False,
    ("mine", "[Tool] Mine."): True,
    ("remote", "[Cloud model] Mine."): False,
}


def test_the_unit_reaches_no_other_machine_unless_it_asks_one() -> None:
    """What to fill in for the Kernel is in the unit, kuwa.args and README."""
    for (backend, summary), closed in NETWORKS.items():
        manifest: Manifest = {**EXAMPLE, "executors": {backend: summary} if summary else {}}
        written = texts(manifest, [backend], ["some.pyz"], 0)
        lines = written["kuwa.service"].splitlines()
        effective = {"IPAddressDeny=any", "IPAddressAllow=localhost"} <= set(lines)
        assert effective is closed, backend
        assert any(line.startswith("# IPAddressAllow=") for line in lines), backend
        assert written["README.md"].count("`IPAddressAllow=`") == 2
        assert "IPAddressAllow" in written["kuwa.args"]


@pytest.mark.parametrize(
    ("backend", "built", "said"),
    [("llamacpp", HEAVY, True), ("llamacpp", EXAMPLE, False), ("huggingface", HEAVY, False)],
)
def test_the_defaults_of_a_file_for_cards_say_how_to_leave_them(
    backend: str, built: Manifest, said: bool
) -> None:
    """Without, llama.cpp computes on them; no other backend has the option."""
    written = texts(built, [backend, "--model_path", "m"], ["some.pyz"], 0)["kuwa.args"]
    assert ("\nm\n\n# It computes as many layers" in written) is said
    assert ("# --ngl\n# 0\n" in written) is said


# -- it refuses


@pytest.mark.parametrize("name", [".hidden", "a file"])
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, archive: Path, name: str) -> None:
    """It stays unchanged."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / name).touch()
    with pytest.raises(UsageError, match="kit is not empty"):
        make_kit(tmp_path / "kit", archive, "huggingface", None)
    assert listing(tmp_path / "kit") == {name}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, archive: Path) -> None:
    """An empty folder is not."""
    (tmp_path / "kit").touch()
    with pytest.raises(UsageError, match="kit is not empty"):
        make_kit(tmp_path / "kit", archive, "huggingface", None)
    (tmp_path / "empty").mkdir()
    make_kit(tmp_path / "empty", archive, "huggingface", None)
    assert listing(tmp_path / "empty") >= WRITTEN


@pytest.mark.parametrize("name", ["nothing", "empty", "weights.bin", "loop", "dangling", "pipe"])
def test_a_model_that_is_none_is_refused(tmp_path: Path, archive: Path, name: str) -> None:
    """Nothing is skipped, and no kit is left."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").touch()
    for folder in ("loop", "dangling", "pipe"):
        (tmp_path / folder).mkdir()
    (tmp_path / "loop" / "again").symlink_to("..")
    (tmp_path / "dangling" / "weights").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe" / "fifo")
    with pytest.raises(UsageError, match=name):
        make_kit(tmp_path / "kit", archive, "huggingface", tmp_path / name)
    assert not (tmp_path / "kit").exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Say that it is to be built first."""
    with pytest.raises(UsageError, match="build it first"):
        make_kit(tmp_path / "kit", tmp_path / "kuwa-debug.pyz", "debug", None)


@pytest.mark.parametrize(
    "argument", ["", " indented", "two\nlines", "# a comment", "a\u2028b", "\udc80"]
)
def test_an_argument_that_is_no_line_is_refused(argument: str) -> None:
    """It would reach the program as something else."""
    with pytest.raises(UsageError, match=r"cannot stand in kuwa\.args"):
        texts(EXAMPLE, ["dummy", argument], ["kuwa-dummy.pyz"], 0)


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash"])
def test_a_name_that_sha256sum_would_disguise_is_refused(
    tmp_path: Path, archive: Path, model: Path, name: str
) -> None:
    """Other readers of the list would not find the file."""
    (model / name).touch()
    with pytest.raises(UsageError, match="cannot be in"):
        make_kit(tmp_path / "kit", archive, "huggingface", model)


def test_a_name_that_is_no_text_travels(tmp_path: Path, archive: Path, model: Path) -> None:
    """Linux allows any bytes."""
    (model / os.fsdecode(b"\xff.json")).touch()
    make_kit(tmp_path / "kit", archive, "huggingface", model)
    assert not check_sums(tmp_path / "kit").returncode


def test_a_failure_leaves_no_half_kit(
    tmp_path: Path, archive: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or Ctrl-C."""

    def stop(_path: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(kit, "sha256_of", stop)
    with pytest.raises(KeyboardInterrupt):
        make_kit(tmp_path / "kit", archive, "huggingface", model)
    assert not (tmp_path / "kit").exists()
    assert (model / "model.safetensors").exists()
