"""What wheels need of a machine: which libraries count, and how their wishes add up."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import HostRequirements, host_requirements
from kuwa_min.packing.elf.reader import Elf
from kuwa_min.packing.elf.scan import FORMAT, ElfScan, cached_scan, scan_wheel

DIGEST = "ab" * 32
MANYLINUX = "one-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
LOCAL = "one-1.0-py3-none-linux_x86_64.whl"
NOTHING = HostRequirements("", {}, [], "", "", [])


def elf(
    *needed: str,
    soname: str = "",
    module: str = "",
    constants: dict[str, int] | None = None,
    **versions: str,
) -> Elf:
    """Return what a library says; versions by the first letters of its sonames."""
    wanted = {
        next(name for name in needed if name.startswith(f"lib{start}")): frozenset(names.split())
        for start, names in versions.items()
    }
    modules = (module,) if module else ()
    return Elf("x86_64", soname, needed, wanted, modules, constants or {})


def libraries(*scans: ElfScan) -> dict[str, list[str]]:
    """Return what the system must have for these wheels."""
    return host_requirements(scans, {}).libraries


def test_pure_wheels_need_nothing() -> None:
    """Nor does no wheel at all."""
    assert (
        host_requirements([], {})
        == host_requirements([ElfScan("one-1.0-py3-none-any.whl", {})], {})
        == NOTHING
    )


def test_a_module_needs_what_its_libraries_need() -> None:
    """From one library to the next, by soname or by file name, whichever is asked for."""
    wheel = {
        "one/_C.abi3.so": elf("libpython_side.so", module="_C"),
        "one/lib/libpython_side.so": elf("libcore.so.1", "libc.so.6"),
        "one/lib/libcore-3f.so": elf("libstdc++.so.6", "libm.so.6", soname="libcore.so.1"),
        "one/lib/libtest.so": elf("libX11.so.6"),
    }
    assert libraries(ElfScan(MANYLINUX, wheel)) == {"libstdc++.so.6": []}


def test_what_another_wheel_holds_is_not_the_systems() -> None:
    """CUDA's libraries are siblings of torch; what they need of the system still counts."""
    torch = ElfScan(MANYLINUX, {"_C.so": elf("libcudart.so.13", "libcuda.so.1", module="_C")})
    runtime = elf("libgcc_s.so.1", "libc.so.6", soname="libcudart.so.13")
    nvidia = ElfScan("two-13-py3-none-manylinux2014_x86_64.whl", {"nvidia/libcudart.so": runtime})
    assert libraries(torch, nvidia) == {"libgcc_s.so.1": []}


@pytest.mark.parametrize("name", ["libcuda.so.1", "libnvidia-ml.so.1", "libnvcuvid.so.1"])
def test_the_drivers_libraries_are_the_drivers(name: str) -> None:
    """It still runs on a host without the driver."""
    assert libraries(ElfScan(LOCAL, {"one.so": elf(name)})) == {}


@pytest.mark.parametrize(
    "name",
    [
        *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"),
        *("libutil.so.1", "libresolv.so.2", "libmvec.so.1"),
        *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    ],
)
def test_glibcs_own_libraries_are_glibcs(name: str) -> None:
    """They come with it, so the version of glibc says all."""
    assert libraries(ElfScan(LOCAL, {"one.so": elf(name)})) == {}


def test_plug_ins_of_manylinux_wheels_are_optional() -> None:
    """What neither the wheels nor the policy have cannot be needed, and the rest of it neither."""
    nvshmem = {
        "nvidia/lib/libnvshmem_host.so.3": elf("libstdc++.so.6", "libc.so.6"),
        "nvidia/lib/nvshmem_bootstrap_mpi.so.3": elf("libmpi.so.40", "libz.so.1"),
        "nvidia/lib/nvshmem_transport_ibrc.so.3": elf("libibverbs.so.1", "libmlx5.so.1"),
        "nvidia/lib/rocm.so": elf("libhipblas.so.2", "libc.so.6", c="GLIBC_2.38"),
    }
    found = host_requirements([ElfScan(MANYLINUX, nvshmem)], {})
    assert (found.libraries, found.glibc) == ({"libstdc++.so.6": []}, "2.28")


def test_a_wheel_without_the_promise_needs_all_it_names() -> None:
    """llama-cpp-python, compiled here: no module, but libraries that are loaded by name."""
    llama = {
        "llama_cpp/lib/libllama.so": elf("libggml-base.so", "libstdc++.so.6"),
        "llama_cpp/lib/libggml-base.so": elf("libgomp.so.1", "libm.so.6", m="GLIBC_2.29"),
        "llama_cpp/lib/libggml-cpu-haswell.so": elf("libatomic.so.1"),
        "llama_cpp/lib/libllama-common.so.0": elf("libssl.so.3"),
        "lib/libllama.so": elf("libcurl.so.4"),
    }
    found = host_requirements([ElfScan(LOCAL, llama)], {})
    assert [*found.libraries] == ["libatomic.so.1", "libgomp.so.1", "libstdc++.so.6"]
    assert found.glibc == "2.29"


VULKAN = {
    "llama_cpp/lib/libggml.so": elf("libggml-base.so"),
    "llama_cpp/lib/libggml-base.so": elf("libm.so.6"),
    "llama_cpp/lib/libggml-vulkan.so": elf("libggml-base.so", "libvulkan.so.1", "libgcc_s.so.1"),
}


@pytest.mark.parametrize("wheel", [LOCAL, MANYLINUX])
def test_the_loader_of_vulkan_is_for_graphics_cards(wheel: str) -> None:
    """Where ggml loads the backend if it can; what else that needs counts."""
    found = host_requirements([ElfScan(wheel, VULKAN)], {})
    assert (found.libraries, found.gpu_libraries) == ({"libgcc_s.so.1": []}, ["libvulkan.so.1"])


@pytest.mark.parametrize("by", ["libggml.so", "libggml-base.so", "libggml-cpu.so"])
@pytest.mark.parametrize("name", ["libggml-vulkan.so", "libvulkan.so.1"])
def test_what_the_processor_cannot_do_without_is_required(by: str, name: str) -> None:
    """In a build whose libraries are linked with that backend, or with the loader itself."""
    linked = {**VULKAN, f"llama_cpp/lib/{by}": elf("libm.so.6", name)}
    found = host_requirements([ElfScan(LOCAL, linked)], {})
    assert found.libraries == {"libgcc_s.so.1": [], "libvulkan.so.1": []}
    assert found.gpu_libraries == []


def test_of_versions_the_last_of_each_series_is_kept() -> None:
    """Over all libraries; 3.4.29 is more than 3.4.9, and other names stay as they are."""
    first = elf("libstdc++.so.6", module="a", **{"stdc++": "GLIBCXX_3.4.9 CXXABI_1.3 CXXABI_TM_1"})
    second = elf("libstdc++.so.6", module="b", **{"stdc++": "GLIBCXX_3.4.29 GLIBCXX_3.4 CXXABI_X"})
    kept = ["CXXABI_1.3", "CXXABI_TM_1", "CXXABI_X", "GLIBCXX_3.4.29"]
    wheel = ElfScan(MANYLINUX, {"a.so": first, "b.so": second})
    assert libraries(wheel) == {"libstdc++.so.6": kept}


@pytest.mark.parametrize(
    ("tags", "glibc"),
    [
        ("any", ""),
        ("linux_x86_64", ""),
        ("macosx_11_0_arm64", ""),
        ("manylinux1_x86_64", "2.5"),
        ("manylinux2010_x86_64", "2.12"),
        ("manylinux2014_aarch64", "2.17"),
        ("manylinux_2_28_x86_64", "2.28"),
        ("manylinux_2_5_x86_64.manylinux1_x86_64.manylinux_2_28_x86_64", "2.5"),
        ("manylinux_2_27_x86_64.manylinux_2_28_x86_64", "2.27"),
    ],
)
def test_glibc_by_tags(tags: str, glibc: str) -> None:
    """A wheel with several runs where the oldest does."""
    wheel = ElfScan(f"one-1.0-cp312-cp312-{tags}.whl", {})
    assert wheel.glibc == host_requirements([wheel], {}).glibc == glibc


@pytest.mark.parametrize(
    ("versions", "glibc"),
    [
        ("GLIBC_2.2.5 GLIBC_2.17", "2.28"),
        ("GLIBC_2.4 GLIBC_2.34", "2.34"),
        ("GLIBC_2.4 GLIBC_2.3.4", "2.28"),
        ("GLIBC_PRIVATE", "2.28"),
        ("GLIBC_ABI_DT_RELR GLIBC_2.29", "2.36"),
    ],
)
def test_glibc_is_the_higher_of_tags_and_libraries(versions: str, glibc: str) -> None:
    """A tag may be too low."""
    wheel = ElfScan(MANYLINUX, {"one.so": elf("libc.so.6", module="one", c=versions)})
    assert host_requirements([wheel], {}).glibc == glibc


GGML = {"ggml_cpu_has_avx": 1, "ggml_cpu_has_fma": 1, "ggml_cpu_has_avx512": 0}


@pytest.mark.parametrize(
    ("constants", "flags"),
    [
        (GGML, ["avx", "fma"]),
        ({"ggml_cpu_has_sse3": 1, "ggml_cpu_has_ssse3": 1}, ["pni", "sse4_2", "ssse3"]),
        ({"ggml_cpu_has_avx512": 1}, ["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]),
        ({"ggml_cpu_has_avx512_vbmi": 1, "ggml_cpu_has_avx512_vnni": 1}, "avx512_vnni avx512vbmi"),
        ({"ggml_cpu_has_amx_int8": 1, "ggml_cpu_has_avx_vnni": 1}, "amx_int8 amx_tile avx_vnni"),
        ({"ggml_cpu_has_llamafile": 1, "ggml_cpu_has_neon": 0}, []),
    ],
)
def test_cpu_flags_are_named_as_the_machine_names_them(
    constants: dict[str, int], flags: list[str] | str
) -> None:
    """What ggml was compiled for must be there: else it ends with an illegal instruction."""
    expected = flags.split() if isinstance(flags, str) else flags
    wheel = ElfScan(LOCAL, {"llama_cpp/lib/libggml-cpu.so": elf(constants=constants)})
    assert host_requirements([wheel], {}).cpu == expected


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("llama_cpp/lib/libggml-cpu.so", True),
        ("llama_cpp/lib/libggml-cpu.so.0", True),
        ("llama_cpp/lib/libllama.so", True),
        ("llama_cpp/lib/libggml-cpu-haswell.so", False),
        ("llama_cpp/lib/libggml-cpu-x64.so", False),
    ],
)
def test_variants_are_chosen_where_it_runs(path: str, counts: bool) -> None:
    """So they ask for nothing."""
    found = host_requirements([ElfScan(LOCAL, {path: elf(constants=GGML)})], {})
    assert found.cpu == (["avx", "fma"] if counts else [])


@pytest.mark.parametrize(
    ("packages", "cuda", "driver"),
    [
        ({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, "", ""),
        ({"torch": "2.13.0", "nvidia-cuda-runtime": "13.0.96"}, "13.0", "580"),
        ({"nvidia_cuda_runtime_cu12": "12.8.90", "torch": "2.8.0"}, "12.8", "525.60.13"),
        ({"nvidia-cuda-runtime-cu11": "11.8.89"}, "11.8", "450.80.02"),
        ({"torch": "2.8.0+cu128"}, "12.8", "525.60.13"),
        ({"torch": "2.13.0+cu130"}, "13.0", "580"),
        ({"llama-cpp-python": "0.3.36+local.cu118"}, "11.8", "450.80.02"),
        ({"torch": "9.0+cu150"}, "15.0", ""),
        ({"nvidia-cuda-nvrtc": "13.0.88"}, "", ""),
    ],
)
def test_cuda_and_its_least_driver(packages: dict[str, str], cuda: str, driver: str) -> None:
    """By the runtime that is inside, else by what torch was built for."""
    found = host_requirements([], packages)
    assert (found.cuda, found.driver) == (cuda, driver)


def test_the_systems_cuda_is_told_by_its_soname() -> None:
    """A llama-cpp-python that was compiled with it carries none."""
    wheel = ElfScan(
        LOCAL, {"llama_cpp/lib/libggml-cuda.so": elf("libcudart.so.12", "libcuda.so.1")}
    )
    expected = HostRequirements("", {"libcudart.so.12": []}, [], "12", "525.60.13", [])
    assert host_requirements([wheel], {}) == expected


def module_file() -> Path:
    """Return an extension module of this Python."""
    for name in ("_ctypes", "_json", "_socket"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and spec.origin.endswith(".so"):
            return Path(spec.origin)
    pytest.skip("this Python has its extension modules built in")


def make_wheel(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Zip these members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wheel_is_read_where_it_lies(tmp_path: Path, method: int) -> None:
    """Every library, whatever its folder; what is none is left out."""
    module, data = module_file(), module_file().read_bytes()
    members = {
        f"one/{module.name}": data,
        "one.libs/libnumbered-1f.so.3.0.1": data,
        "one/text.so": b"INPUT(libone.so.1)",
        "one/source.sop": data,
        "one/__init__.py": b"",
        "one-1.0.dist-info/RECORD": b"",
    }
    found = scan_wheel(make_wheel(tmp_path / MANYLINUX, members, method))
    assert found.wheel == MANYLINUX
    assert [*found.libraries] == ["one.libs/libnumbered-1f.so.3.0.1", f"one/{module.name}"]
    assert found.libraries[f"one/{module.name}"].modules == (module.name.partition(".")[0],)
    assert "libc.so.6" not in host_requirements([found], {}).libraries


@pytest.mark.parametrize("harm", ["text", "cut", "flipped"])
def test_a_damaged_wheel_is_refused(tmp_path: Path, harm: str) -> None:
    """With what to do about it."""
    wheel = make_wheel(tmp_path / MANYLINUX, {"one.so": module_file().read_bytes()})
    data = wheel.read_bytes()
    bad = {"text": b"404", "cut": data[:-40], "flipped": data[:60] + b"\xff" * 300 + data[360:]}
    wheel.write_bytes(bad[harm])
    with pytest.raises(UsageError, match=r"one-1\.0.* is not a whole wheel \(.+\): fetch it again"):
        scan_wheel(wheel)


EXAMPLE = ElfScan(
    MANYLINUX,
    {
        "a.so": elf("libc.so.6", module="a", c="GLIBC_2.2.5 GLIBC_2.17"),
        "b.so": elf(soname="libb.so.1", constants=GGML),
    },
)


def test_a_scan_survives_json() -> None:
    """And is the same text each time."""
    text = EXAMPLE.to_json()
    assert ElfScan.from_json(text) == EXAMPLE
    assert ElfScan.from_json(text).to_json() == text


DAMAGED = [
    "",
    "{",
    "[]",
    "3",
    '{"format": 1}',
    '{"format": 1, "wheel": "x", "libraries": 3}',
    '{"format": 1, "wheel": "x", "libraries": {"a.so": []}}',
    '{"format": 1, "wheel": "x", "libraries": {"a.so": ["", "", 1, {}, [], {}]}}',
    EXAMPLE.to_json()[:-9],
    json.dumps({**json.loads(EXAMPLE.to_json()), "format": FORMAT + 1}),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_malformed_json_of_a_scan_is_refused(text: str) -> None:
    """By the one exception that remembering expects."""
    with pytest.raises(ValueError):
        ElfScan.from_json(text)


def test_a_wheel_is_read_once(tmp_path: Path) -> None:
    """From then on its sha256 says all, and nothing but the memo is left in the folder."""
    wheel = make_wheel(tmp_path / MANYLINUX, {"one.so": module_file().read_bytes()})
    first = cached_scan(wheel, DIGEST, tmp_path / "memos")
    wheel.write_bytes(b"is not read again")
    assert cached_scan(wheel, DIGEST, tmp_path / "memos") == first
    assert [path.name for path in (tmp_path / "memos").iterdir()] == [f"{DIGEST}.elf.json"]
    with pytest.raises(UsageError):
        cached_scan(wheel, "cd" * 32, tmp_path / "memos")


@pytest.mark.parametrize("text", [*DAMAGED, EXAMPLE._replace(wheel=LOCAL).to_json(), "\udcff"])
def test_a_memo_that_does_not_fit_is_made_anew(tmp_path: Path, text: str) -> None:
    """Damaged, of another version of us, or of a wheel with other tags."""
    wheel = make_wheel(tmp_path / MANYLINUX, {"one.so": module_file().read_bytes()})
    memo = tmp_path / f"{DIGEST}.elf.json"
    memo.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = cached_scan(wheel, DIGEST, tmp_path)
    assert found == scan_wheel(wheel) == ElfScan.from_json(memo.read_text("utf-8"))


def test_a_folder_that_takes_nothing_costs_time_only(tmp_path: Path) -> None:
    """It may be on a read-only disk; here it is a file."""
    wheel = make_wheel(tmp_path / MANYLINUX, {"one.so": module_file().read_bytes()})
    (tmp_path / "memos").write_bytes(b"")
    assert cached_scan(wheel, DIGEST, tmp_path / "memos") == scan_wheel(wheel)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here to make libraries with")
def test_a_large_library_is_not_held_whole(tmp_path: Path) -> None:
    """Of 96 MiB, what is held at once is less than a third."""
    code = tmp_path / "large.c"
    code.write_text("const char large[96 << 20] = {1}; int PyInit_large(void) { return 0; }")
    made = tmp_path / "large.so"
    subprocess.run(["gcc", "-shared", "-fPIC", code, "-o", made, "-Wl,-soname,large"], check=True)
    wheel = tmp_path / LOCAL
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(made, "large.so")
    made.unlink()
    tracemalloc.start()
    try:
        found = scan_wheel(wheel).libraries["large.so"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.soname, found.modules, found.machine) == ("large", ("large",), os.uname().machine)
    assert peak < 32 << 20
