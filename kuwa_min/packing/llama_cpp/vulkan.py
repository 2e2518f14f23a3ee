"""What compiles ggml's Vulkan backend: headers, a shader compiler, and a stand-in for the loader.

Headers and compiler come from the system, or from the folder that VULKAN_SDK names. No graphics
card and no driver is needed, and of the loader nothing but the names of its functions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kuwa_min.errors import UsageError

from .compiling import make_stub
from .ggml_backend import GgmlBackend

MIN_HEADERS = 275  # of Vulkan 1.3.275 (Ubuntu 24.04); 1.3.239 (Debian 12) lacks VkLayerSettingEXT
PREFIXES = ("/usr/local", "/usr")
SPIRV = "SPIRV-Headers/SPIRV-HeadersConfig.cmake"
INSTALL = (
    "Debian 13, Ubuntu 25.04 and newer have what it takes (apt-get install libvulkan-dev glslc "
    "spirv-headers); elsewhere take LunarG's Vulkan SDK, and let VULKAN_SDK name its folder"
)
# Without the first, prompts are computed several times slower; so they are without the second on
# cards that have no matrix units. llama.cpp does not say so.
NEEDED = ("GL_KHR_cooperative_matrix", "GL_EXT_integer_dot_product")
SHADER = "#version 450\n#extension {} : require\nvoid main() {{}}\n"
COMPILE = ("-fshader-stage=compute", "--target-env=vulkan1.3", "-o", os.devnull, "-")
HEADER_VERSION = re.compile(r"#define VK_HEADER_VERSION (\d+)")
API_VERSION = re.compile(r"VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+),")
FUNCTION = re.compile(r"VKAPI_CALL (vk\w+)\(")
CPU_SECONDS = 720  # measured


def vulkan_backend(
    environment: Mapping[str, str], stand_ins: Path, *, slow_shaders: bool
) -> GgmlBackend:
    """Find headers and compiler; raises UsageError if they are missing or too old.

    stand_ins: a folder for the library to link with; slow_shaders: take a compiler without NEEDED.
    """
    prefixes = [environment["VULKAN_SDK"]] if environment.get("VULKAN_SDK") else [*PREFIXES]
    headers = _found(prefixes, ("include",), "vulkan/vulkan_core.h", "Vulkan's headers")
    text = headers.read_text("utf-8", "replace")
    version = _check_headers(headers, text)
    folders = [f"{above}/cmake" for above in ("share", "lib", "lib64", "lib/x86_64-linux-gnu")]
    spirv = _found(prefixes, folders, SPIRV, "the headers of SPIR-V")
    glslc = _glslc(environment, prefixes)
    compiler = _check_glslc(glslc, slow_shaders=slow_shaders)
    flags = {
        "GGML_VULKAN": "ON",
        "Vulkan_INCLUDE_DIR": headers.parents[1],
        "Vulkan_GLSLC_EXECUTABLE": glslc,
        "Vulkan_LIBRARY": stand_in(text, stand_ins, environment),
        "SPIRV-Headers_DIR": spirv.parent,
    }
    return GgmlBackend(
        "vulkan",
        tuple(f"-D{name}={value}" for name, value in flags.items()),
        run_path="$ORIGIN",
        compilers=f"{compiler}, Vulkan {version}",
        cpu_seconds=CPU_SECONDS,
    )


def _found(prefixes: list[str], folders: list[str] | tuple[str, ...], name: str, what: str) -> Path:
    for prefix in prefixes:
        for folder in folders:
            if (path := Path(prefix, folder, name)).is_file():
                return path.absolute()
    raise UsageError(
        f"--vulkan needs {what}, and {name} is not in {' or '.join(prefixes)}: {INSTALL}"
    )


def _check_headers(path: Path, text: str) -> str:
    """Return the headers' version; raises UsageError if it is too old."""
    number, api = HEADER_VERSION.search(text), API_VERSION.search(text)
    if not (number and api):
        raise UsageError(f"--vulkan needs Vulkan's headers, and {path} has no version: {INSTALL}")
    version = f"{api[1]}.{api[2]}.{number[1]}"
    if int(number[1]) < MIN_HEADERS:
        raise UsageError(
            f"--vulkan needs Vulkan's headers 1.3.{MIN_HEADERS} or newer, and {path} is {version}: "
            f"{INSTALL}"
        )
    return version


def _glslc(environment: Mapping[str, str], prefixes: list[str]) -> str:
    """Return the path of the shader compiler: of the PATH, or else of the SDK."""
    path = os.pathsep.join(
        [environment.get("PATH", os.defpath), *(f"{one}/bin" for one in prefixes)]
    )
    found = shutil.which("glslc", path=path)
    if not found:
        raise UsageError(f"--vulkan needs the shader compiler glslc, which is not here: {INSTALL}")
    return found


def _check_glslc(glslc: str, *, slow_shaders: bool) -> str:
    """Return the name and version of the compiler; raises UsageError without NEEDED."""
    told = subprocess.run([glslc, "--version"], capture_output=True, text=True)
    name = told.stdout.partition("\n")[0].strip() or glslc
    if told.returncode:
        raise UsageError(f"{glslc} does not run ({told.stderr.strip()[-200:]}): {INSTALL}")
    lacking = [one for one in NEEDED if not _compiles(glslc, one)]
    if lacking and not slow_shaders:
        raise UsageError(
            f"{glslc} ({name}) does not know {' and '.join(lacking)}: prompts would be several "
            f"times slower, and nothing would say so; {INSTALL}; or take it with --slow_shaders"
        )
    return f"{name} without {', '.join(lacking)}" if lacking else name


def _compiles(glslc: str, extension: str) -> bool:
    shader = SHADER.format(extension)
    return not subprocess.run(
        [glslc, *COMPILE], input=shader, capture_output=True, text=True
    ).returncode


def stand_in(header: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """Make a library with the loader's name and functions, to link with; raises UsageError."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder.absolute() / "libvulkan.so"
    make_stub(library, "libvulkan.so.1", FUNCTION.findall(header), environment)
    return library
