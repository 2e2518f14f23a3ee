"""What compiles ggml's Vulkan backend: what is found, what is refused, what it is linked with."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.reader import read_elf_file
from kuwa_min.packing.llama_cpp import vulkan
from kuwa_min.packing.llama_cpp.ggml_backend import GgmlBackend

HEADER = """
#define VK_HEADER_VERSION {}
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 4, VK_HEADER_VERSION)
VKAPI_ATTR VkResult VKAPI_CALL vkCreateInstance(
VKAPI_ATTR void VKAPI_CALL vkCmdCopyBuffer(
"""
# A compiler that knows the extensions of its file `known`, and writes nothing.
GLSLC = """#!/bin/sh
[ "$1" = --version ] && echo "shaderc 2025.2" && exit 0
read -r version; read -r extension name rest
grep -qx "$name" "$(dirname "$0")/known"
"""
MATRIX, DOT = vulkan.NEEDED
FORMER = "apt-get install libvulkan-dev glslc spirv-headers"


@pytest.fixture
def sdk(tmp_path: Path) -> Path:
    """Make a folder as VULKAN_SDK names one."""
    folder = tmp_path / "sdk"
    write(folder / "include/vulkan/vulkan_core.h", HEADER.format(309))
    write(folder / "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake", "")
    write(folder / "bin/known", f"{MATRIX}\n{DOT}\n")
    write(folder / "bin/glslc", GLSLC).chmod(0o755)
    return folder


def write(path: Path, text: str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
    return path


def found(sdk: Path, *, slow_shaders: bool = False) -> GgmlBackend:
    """Return what is found with the folder as SDK, and with the system's compiler for C."""
    environment = {"VULKAN_SDK": str(sdk), "PATH": ""}
    stand_ins = sdk.parent / "stand-ins"
    return vulkan.vulkan_backend(environment, stand_ins, slow_shaders=slow_shaders)


@pytest.fixture(autouse=True)
def linker(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Link nothing but where that is the test."""
    if "linked" not in request.fixturenames:
        monkeypatch.setattr(vulkan, "stand_in", lambda text, folder, environment: folder / "lib.so")


def test_all_is_found_below_the_sdk(sdk: Path) -> None:
    """And what makes another library is said, for the wheel's key."""
    backend = found(sdk)
    assert backend.library == "libggml-vulkan.so"
    assert backend.compilers == "shaderc 2025.2, Vulkan 1.4.309"
    assert backend.flags == (
        "-DGGML_VULKAN=ON",
        f"-DVulkan_INCLUDE_DIR={sdk}/include",
        f"-DVulkan_GLSLC_EXECUTABLE={sdk}/bin/glslc",
        f"-DVulkan_LIBRARY={sdk.parent}/stand-ins/lib.so",
        f"-DSPIRV-Headers_DIR={sdk}/share/cmake/SPIRV-Headers",
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "include/vulkan/vulkan_core.h",
            None,
            "needs Vulkan's headers, and vulkan/vulkan_core.h is ",
        ),
        ("include/vulkan/vulkan_core.h", "404", "needs Vulkan's headers, and .* has no version"),
        ("include/vulkan/vulkan_core.h", HEADER.format(239), "1.3.275 or newer, and .* is 1.4.239"),
        (
            "share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake",
            None,
            "needs the headers of SPIR-V",
        ),
        ("bin/glslc", None, "needs the shader compiler glslc, which is not here"),
        ("bin/glslc", "#!/bin/sh\necho no library >&2; exit 127", "glslc does not run .no library"),
        ("bin/known", DOT, rf"shaderc 2025.2. does not know {MATRIX}: .*; or take it with --slow"),
        (
            "bin/known",
            "",
            f"does not know {MATRIX} and {DOT}: prompts would be several times slower",
        ),
    ],
)
def test_what_is_missing_or_too_old_is_one_line(
    sdk: Path, name: str, text: str | None, words: str
) -> None:
    """With what to install."""
    (sdk / name).write_text(text, encoding="ascii") if text is not None else (sdk / name).unlink()
    with pytest.raises(UsageError, match=words) as refused:
        found(sdk)
    assert FORMER in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_slow_compiler_is_taken_if_told(sdk: Path) -> None:
    """The wheel is kept apart from those of better compilers."""
    (sdk / "bin/known").write_text(DOT, encoding="ascii")
    compilers = found(sdk, slow_shaders=True).compilers
    assert compilers == f"shaderc 2025.2 without {MATRIX}, Vulkan 1.4.309"


def test_a_compiler_of_the_path_comes_first(sdk: Path, tmp_path: Path) -> None:
    """As that of an SDK does that was set up for the shell."""
    other = write(tmp_path / "other/glslc", GLSLC)
    other.chmod(0o755)
    write(tmp_path / "other/known", f"{MATRIX}\n{DOT}\n")
    environment = {"VULKAN_SDK": str(sdk), "PATH": str(other.parent)}
    backend = vulkan.vulkan_backend(environment, tmp_path, slow_shaders=False)
    assert f"-DVulkan_GLSLC_EXECUTABLE={other}" in backend.flags


@pytest.fixture
def linked() -> None:
    """Ask for the real linker."""


@pytest.mark.usefixtures("linked")
def test_the_stand_in_has_the_loaders_name_and_functions(tmp_path: Path) -> None:
    """An empty one would be left out of what the backend needs."""
    library = vulkan.stand_in(HEADER.format(309), tmp_path, {})
    with library.open("rb") as file:
        elf = read_elf_file(file)
    assert elf is not None
    assert elf.soname == "libvulkan.so.1"
    assert b"\0vkCmdCopyBuffer\0" in library.read_bytes()


@pytest.mark.usefixtures("linked")
@pytest.mark.parametrize("compiler", ["/nowhere/cc -m64", "false"])
def test_no_compiler_is_one_line(tmp_path: Path, compiler: str) -> None:
    """Of whatever CC names."""
    with pytest.raises(UsageError, match=r"no C compiler is here|false makes no library"):
        vulkan.stand_in(HEADER.format(309), tmp_path, {"CC": compiler})
