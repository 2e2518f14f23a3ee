"""Whether a library has code for an NVIDIA card."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.llamacpp.device import cuda_cards
from backends.llamacpp.device.cuda_cards import FATBIN, FATBIN_HEADER, PART, Card

V100, T4, A100, RTX_3090 = (7, 0), (7, 5), (8, 0), (8, 6)
H100, B200, RTX_5090 = (9, 0), (10, 0), (12, 0)


@pytest.mark.parametrize(
    ("architectures", "runs_on", "not_on"),
    [
        (["80-real"], [A100, RTX_3090], [V100, T4, H100, RTX_5090]),
        (["86-real"], [RTX_3090], [A100]),
        (["90"], [H100, B200, RTX_5090], [A100, T4]),
        (["75-virtual"], [T4, A100, RTX_5090], [V100]),
        (["120a-real"], [RTX_5090], [(12, 1), H100]),
        (["90a"], [H100], [B200]),
        (["100f-real"], [B200, (10, 3)], [H100, RTX_5090]),
        (["75-real", "80-real", "90"], [T4, RTX_3090, B200], [V100]),
        ([], [V100, B200], []),
        (["native", "all-major"], [V100, B200], []),
        (["80-real", "some-day"], [A100], [T4]),
    ],
)
def test_which_cards_run_which_code(
    architectures: list[str], runs_on: list[tuple[int, int]], not_on: list[tuple[int, int]]
) -> None:
    """By CUDA's rules of compatibility; what is not known refuses no card."""
    cards = [Card(0, "one", capability) for capability in (*runs_on, *not_on)]
    found = [one.capability for one in cards if not cuda_cards.fault(architectures, [one])]
    assert found == runs_on


@pytest.mark.parametrize(
    ("capability", "line"),
    [
        (T4, "build.py llamacpp --cuda 75"),
        (RTX_5090, "build.py llamacpp --cuda 120"),
        (V100, "build.py llamacpp --vulkan"),
    ],
)
def test_the_line_that_mends_it_is_named(capability: tuple[int, int], line: str) -> None:
    """With the card, what it can do and what the file has."""
    good, bad = Card(0, "A10", RTX_3090), Card(1, "Other Card", capability)
    major, minor = capability
    assert cuda_cards.fault(["86-real", "90a-real", "80-real"], [good, bad]) == (
        f"CUDA1 (Other Card) has the compute capability {major}.{minor}, and this file has code "
        f"for 8.6, 9.0a, 8.0; one that computes on it is made by {line}; "
        "--visible_gpu can leave it out"
    )
    assert cuda_cards.fault(["86-real"], [bad]).endswith(line)  # no other card is left
    assert "9.0 and newer;" in cuda_cards.fault(["90"], [good])


def test_the_list_lies_beside_the_library(tmp_path: Path) -> None:
    """Without one, nothing is known."""
    library = tmp_path / "libggml-cuda.so"
    assert cuda_cards.read_architectures(library) == []
    (tmp_path / "libggml-cuda.architectures").write_text("75-real\n90\n", encoding="ascii")
    assert cuda_cards.read_architectures(library) == ["75-real", "90"]


def fatbin(*parts: tuple[int, int]) -> bytes:
    """Make the code of one source: for each part its kind and its architecture."""
    made = b"".join(PART.pack(kind, 64, 3, one) + bytes(64 - PART.size + 3) for kind, one in parts)
    return FATBIN.pack(*FATBIN_HEADER, len(made)) + made


def test_without_that_file_the_code_is_looked_at(tmp_path: Path) -> None:
    """As in a wheel that others compiled; numbers that look alike and cut-off files are no code."""
    library = tmp_path / "libggml-cuda.so"
    alike = FATBIN.pack(FATBIN_HEADER[0], 9, 16, 1 << 60)
    library.write_bytes(b"ELF" + fatbin((2, 75), (1, 90), (64, 80)) + alike + fatbin((2, 90)))
    assert cuda_cards.read_architectures(library) == ["75-real", "90-real", "90-virtual"]
    library.write_bytes(library.read_bytes()[:-60])
    assert cuda_cards.read_architectures(library) == []
    library.write_bytes(b"")
    assert cuda_cards.read_architectures(library) == []
