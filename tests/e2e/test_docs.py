"""Run the commands and code that the documents show."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuwa_min import registry
from tests.support.certificates import make_key
from tests.support.programs import ROOT, Program, chat_through, fetch, said
from tests.support.small_files import make_wheel
from tests.support.stub_build import built as build_with_stubs
from tests.support.stub_build import make_libraries

pytestmark = pytest.mark.slow
README, TWIN = ROOT / "README.md", ROOT / "docs" / "README.zh-TW.md"
KUWA, KUWA_TWIN = ROOT / "docs" / "kuwa.md", ROOT / "docs" / "kuwa.zh-TW.md"
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_]+")
OF_DOCKER = {"--rm", "--entrypoint"}
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def blocks(path: Path, language: str) -> list[str]:
    """Return a document's code blocks of a language, without indentation."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [
        "\n".join(map(str.strip, text.splitlines())) for name, text in found if name == language
    ]


def blocks_as_written(path: Path, language: str) -> list[str]:
    """Return a document's code blocks of a language as they are."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


@pytest.mark.parametrize(("english", "chinese"), [(README, TWIN), (KUWA, KUWA_TWIN)])
@pytest.mark.parametrize("language", ["sh", "yaml"])
def test_both_languages_show_the_same_commands(english: Path, chinese: Path, language: str) -> None:
    """Compare a page with its twin."""
    assert blocks(english, language) == blocks(chinese, language)


@pytest.mark.parametrize(
    "path", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    """Follow the relative links."""
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_commands_of_the_air_gap_walk_through_work(dist: Path) -> None:
    """Run each command of the README, the servers for as long as a chat takes."""
    shown = [line for block in blocks(README, "sh") for line in block.splitlines()]
    commands = [line.removeprefix("cd dist && ") for line in shown if "kuwa-dummy.pyz" in line]
    assert len(commands) == 4
    for command in commands:
        words = command.replace("HOST", "127.0.0.1").split()
        if "--embedded_kernel" in words:
            words += ["127.0.0.1:0"]
        words[0] = words[0].replace("python3", sys.executable)
        if "dummy" not in words:
            subprocess.run(words, cwd=dist, check=True, capture_output=True)
            continue
        words[1] = str(dist / words[1])
        with Program(*words[2:], command=(words[0], words[1])) as program:
            program.wait_for("registered as dummy" if "127.0.0.1:0" in words else "ready")
            program.process.terminate()
            assert program.end() == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a model and with wheels that stand in for the real libraries."""
    folder = tmp_path_factory.mktemp("bench")
    make_libraries(folder / "DIR")
    for name in ("bitsandbytes", "compressed_tensors"):
        make_wheel(folder / "DIR", name, {f"{name}.py": b""}, version="99")
    make_key(folder / "KEY")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    return folder


def builds() -> list[str]:
    """Return every command that the documents build with."""
    pages = (README, ROOT / "docs" / "building.md", KUWA)
    shown = itertools.chain.from_iterable(blocks(page, "sh") for page in pages)
    return [line for block in shown for line in block.splitlines() if " build.py " in line]


@pytest.mark.parametrize("command", builds())
def test_every_way_to_build_works(bench: Path, tmp_path: Path, command: str) -> None:
    """Run it with stubs of the libraries, offline."""
    if "llamacpp" in command:
        pytest.skip("needs the CUDA compiler; tests/e2e/test_heavy.py builds llamacpp without")
    words = shlex.split(command.replace(".venv/bin/python build.py", ""))
    places = ("./model", "DIR", "KEY")
    words = [str(bench / word) if word in places else word for word in words]
    links = [] if "--list" in words else ["--no_index", "--find_links", str(bench / "DIR")]
    line = [sys.executable, str(ROOT / "build.py"), *words, *links]
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    if "--kit" in words:
        check = ["sha256sum", "-c", "--quiet", "SHA256SUMS"]
        subprocess.run(check, cwd=tmp_path / "kit", check=True)


@pytest.mark.parametrize("page", ["air-gap.md", "huggingface.md", "kuwa.md"])
def test_every_command_of_a_page_works(tmp_path: Path, page: str) -> None:
    """Run it with stubs of the libraries; those can load no model, and say so."""
    place, root = build_with_stubs(tmp_path).parent, str(tmp_path / "srv")
    (place / "model").mkdir()
    for block in blocks(ROOT / "docs" / page, "sh"):
        for command in block.splitlines():
            if page == "kuwa.md" and not command.startswith("python3"):
                continue  # other tests run those
            words = command.replace("/srv/kuwa", root).replace("HOST", "127.0.0.1").split()
            words[0] = words[0].replace("python3", sys.executable)
            done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
            expected = "has no config.json" if "--model_path" in words else ""
            assert done.returncode == 0 or (expected and expected in done.stderr), done.stderr


def options_of(*command: str) -> set[str]:
    """Return the options that a command's --help shows."""
    line = [sys.executable, *command, "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(OPTION.findall(done.stdout))


@pytest.mark.parametrize("page", [KUWA, KUWA_TWIN], ids=lambda page: page.name)
def test_every_option_that_the_page_on_kuwa_names_exists(page: Path) -> None:
    """Look for it in --help of the backends and of build.py."""
    known = options_of("build.py") | OF_DOCKER
    for backend in registry.names():
        known |= options_of("-m", "kuwa_min", backend)
    assert set(OPTION.findall(page.read_text(encoding="utf-8"))) - known == set()


def line_of_kuwas_image(service: dict[str, Any]) -> list[str]:
    """Return the command line that the entry point of Kuwa's executor image makes of a service."""
    settings = service["environment"]
    names = settings["EXECUTOR_ACCESS_CODE"].split(";")
    general = ["--kernel_url", "http://127.0.0.1:9/", "--access_code", *names]
    return ["kuwa-executor", settings["EXECUTOR_TYPE"], *general, *service["command"]]


def mounted(file: Path, folder: Path) -> dict[str, str]:
    """Put a file where a container has it, under that name; return the environment to run it."""
    folder.mkdir()
    shutil.copy(file, folder / "kuwa-executor")
    (folder / "python3").symlink_to(sys.executable)  # as in the image: the file is built for it
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}


@pytest.fixture
def service() -> dict[str, Any]:
    """Give the service that the page on Kuwa shows for Docker Compose."""
    (shown,) = blocks_as_written(KUWA, "yaml")
    (service,) = yaml.safe_load(shown)["services"].values()
    return dict(service)


def test_the_compose_service_starts_the_mounted_file(
    service: dict[str, Any], tmp_path: Path
) -> None:
    """Run what Kuwa's image would run; the model's folder is empty, which is said in one line."""
    places = dict(volume.split(":")[1::-1] for volume in service["volumes"])
    assert places["/usr/local/bin/kuwa-executor"].endswith(".pyz")
    folder = tmp_path / "model"
    folder.mkdir()
    line = [str(folder) if word == "/model" else word for word in line_of_kuwas_image(service)]
    file = build_with_stubs(tmp_path / "dist")
    environment = {**os.environ, **mounted(file, tmp_path / "bin"), "HOME": str(tmp_path / "root")}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert "has no config.json" in done.stderr
    kept = next(place for place in places if place.startswith("/root/"))
    assert any((tmp_path / kept.lstrip("/")).iterdir())


@pytest.mark.parametrize("kind", ["dummy", "file"])
def test_the_entry_point_of_kuwas_image_starts_other_executors(
    service: dict[str, Any], dist: Path, tmp_path: Path, kind: str
) -> None:
    """Run a backend without libraries, and a .py file, from a file named as Kuwa's program."""
    path = tmp_path / "my_file.py"
    shutil.copy(ROOT / "examples" / "kuwa_executor.py", path)
    service["environment"]["EXECUTOR_TYPE"] = str(path) if kind == "file" else "dummy"
    service["environment"]["EXECUTOR_ACCESS_CODE"] = "one;two"
    service["command"] = ["--concurrent_req_limit", "8"]
    environment = mounted(dist / "kuwa-dummy.pyz", tmp_path / "bin")
    command = str(tmp_path / "bin" / "kuwa-executor")
    with Program(*line_of_kuwas_image(service)[1:], command=(command,), **environment) as program:
        program.wait_for("ready: 8 slot")
        program.process.terminate()
        assert program.end() == 0


def test_the_kernel_lists_an_executor_as_the_page_on_kuwa_shows(dist: Path) -> None:
    """Ask the embedded Kernel for the path of the command."""
    (command,) = (block for block in blocks(KUWA, "sh") if block.startswith("curl"))
    path = command.rpartition("HOST:9000")[2]
    command_line = (sys.executable, str(dist / "kuwa-dummy.pyz"))
    options = ("dummy", "--access_code", "my-model", "--embedded_kernel", "127.0.0.1:0")
    with Program(*options, command=command_line) as program:
        program.wait_for("registered as my-model")
        assert fetch(program.kernel_url + path) == (200, '["my-model"]')


def test_make_has_the_targets_that_the_readme_names() -> None:
    """Ask make what it would do."""
    for line in blocks(README, "sh"):
        for command in re.findall(r"^make .*$", line, re.MULTILINE):
            subprocess.run([*command.split(), "-n"], cwd=ROOT, check=True, capture_output=True)


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """Compare .ci/run with the README."""
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in blocks(README, "sh")[0]


def test_the_executor_in_the_documents_runs(built: Callable[[str], Path], tmp_path: Path) -> None:
    """Save the example, run it with the built file, chat with it."""
    path = ROOT / "docs" / "custom-executors.md"
    source = BLOCK.search(path.read_text(encoding="utf-8"))
    assert source is not None
    (tmp_path / "parrot.py").write_text(source[2])
    options = ("--access_code", "parrot", "--embedded_kernel", "127.0.0.1:0")
    command = (sys.executable, str(built("debug")))
    with Program(str(tmp_path / "parrot.py"), *options, command=command) as program:
        program.wait_for("registered as parrot")
        assert fetch(program.url, said("hello you")) == (200, "HELLO YOU ")
        assert chat_through(program.kernel_url, "parrot", "hi") == "HI "


def test_the_console_script_is_the_same_program() -> None:
    """Run kuwa-executor where the package is installed."""
    script = shutil.which("kuwa-executor", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([script, "--list"], capture_output=True, text=True, check=True)
    assert 'Use "kuwa-executor [executor] --help" to get more information.' in done.stdout
