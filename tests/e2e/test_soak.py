"""The soak runs, finds nothing in a built file, and finds a leak where there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeOnce
from tests.support.programs import ROOT

pytestmark = pytest.mark.slow
LEAKY = """
from kuwa_min import LLMExecutor

class LeakyExecutor(LLMExecutor):
    kept = []

    async def llm_compute(self, history, modelfile):
        self.kept.append(open("/dev/null"))
        yield "It is open."

if __name__ == "__main__":
    LeakyExecutor().run()
"""


@pytest.fixture
def file(make_once: MakeOnce) -> Path:
    """Build the file once."""

    def build(folder: Path) -> None:
        command = [sys.executable, "build.py", "dummy", "--output", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    return make_once("soak", build) / "kuwa-dummy.pyz"


def soak(file: Path, minutes: float, *arguments: str, rest: int = 60) -> tuple[int, str]:
    """Soak for so long; return the exit code and the report. Little time says little of memory."""
    command = [sys.executable, "benchmarks/soak.py", "--file", str(file), "--growth", "50"]
    command += ["--minutes", str(minutes), "--rest", str(rest), "--", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_a_short_soak_leaves_nothing_behind(file: Path) -> None:
    """Chats, hang-ups, aborts, garbage, floods, and a Kernel that restarts, hangs and babbles."""
    code, report = soak(file, 0.3)
    assert (code, " NO\n" in report) == (0, False), report


def test_a_leak_is_found(file: Path, tmp_path: Path) -> None:
    """Each chat leaves a descriptor."""
    program = tmp_path / "leaky.py"
    program.write_text(LEAKY, encoding="utf-8")
    code, report = soak(file, 0.1, str(program), "--access_code", "leaky", rest=5)
    assert code == 1
    (line,) = (line for line in report.splitlines() if line.startswith("open descriptors"))
    assert line.endswith(" NO"), report
