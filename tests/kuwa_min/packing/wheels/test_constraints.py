"""The constraints file: what it holds is what the tests run with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from kuwa_min.bundle.versions import python_minor
from kuwa_min.packing.wheels.constraints import Constraints, read_constraints
from kuwa_min.packing.wheels.lock import Pin, read_lock
from kuwa_min.registry import backend_infos
from tests.support.programs import ROOT

OF_CUDA = re.compile("nvidia-.*|cuda-.*|triton")  # of torch, where it is one for CUDA


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Return these packages and all that they require, with the versions installed here."""
    found: dict[str, str] = {}
    seen, waiting = set(), [(Requirement(one), "") for one in requirements]
    while waiting:
        one, extra = waiting.pop()
        if one.marker and not one.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(one.name)
        distribution = importlib.metadata.distribution(one.name)
        found[name] = Version(distribution.version).public
        for extra in {"", *one.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(Requirement(text), extra) for text in distribution.requires or ()]
    return found


def test_the_tests_run_with_the_versions_of_the_file() -> None:
    """All that any backend needs is in it; only on the Python that it was made with."""
    missing = [
        module
        for info in backend_infos().values()
        for module in info.requires
        if importlib.util.find_spec(module.partition(".")[0]) is None
    ]
    constraints = read_constraints()
    if missing:
        pytest.skip(f"{', '.join(missing)} are not installed here: make heavy cloud")
    if f"Python {python_minor()} " not in constraints.raised:
        pytest.skip(f"the versions are those of {constraints.raised}")
    required = [one for info in backend_infos().values() for one in info.requires.values()]
    here = installed(required)
    assert here == {name: constraints.versions.get(name) for name in here}
    tools = {
        pin.name
        for record in ROOT.glob("build/wheels/llama-cpp-python-*/*/source.lock")
        for pin in getattr(read_lock(record).source, "tools", ())
    } | {"cmake", "ninja", "pathspec", "scikit-build-core"}
    rest = constraints.versions.keys() - here.keys() - tools
    assert [name for name in rest if not OF_CUDA.fullmatch(name)] == []


def test_each_line_has_one_version_and_a_marker_at_most() -> None:
    """In the order of names; pip and uv read it as a constraints file."""
    constraints = read_constraints()
    assert list(constraints.lines) == sorted(constraints.lines)
    assert len(constraints.versions) == len(constraints.lines)
    for line in constraints.lines:
        (specifier,) = Requirement(line).specifier
        assert (specifier.operator, Version(specifier.version).local) == ("==", None)


def test_the_report_says_what_differs(tmp_path: Path) -> None:
    """A local version is the same version."""
    text = '# raised: today\ntorch==2.13.0\nNum_Py==2.4 ; python_version >= "3.11"\n'
    path = tmp_path / "constraints.txt"
    path.write_text(text, encoding="utf-8")
    constraints = read_constraints(path)
    versions = {"torch": "2.13.0", "num-py": "2.4"}
    assert constraints == Constraints("today", tuple(text.splitlines()[1:]), versions)
    pins = [Pin("torch", "2.13.0+cpu", ())]
    said = "versions of x: 1 of 1 packages as tested (today)"
    assert constraints.report("x", pins) == said
    pins += [Pin("num-py", "2.2", ()), Pin("other", "1", ())]
    assert constraints.report("x", pins) == (
        "versions of x: 1 of 3 packages as tested (today); "
        "not as tested: num-py 2.2 instead of 2.4; never tested: other 1"
    )
    of_ggml = ("num-py==2.2",)
    assert constraints.report("x", pins, of_ggml) == (
        "versions of x: 1 of 3 packages as tested (today); "
        "as llama.cpp was compiled with: num-py 2.2; never tested: other 1"
    )
