"""YAML without PyYAML: what is read is what PyYAML reads, and the rest is refused by its line."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from kuwa_min.options.yaml import block

READ: dict[str, Any] = {
    "": None,
    "# a comment\n\n": None,
    "---\n": None,
    "--- # options\na: 1": {"a": 1},
    # words
    "a: yes\nb: On\nc: TRUE\nd: no\ne: off\nf: False\ng: y\nh: tRue": {
        "a": True,
        "b": True,
        "c": True,
        "d": False,
        "e": False,
        "f": False,
        "g": "y",
        "h": "tRue",
    },
    "a: ~\nb: null\nc: Null\nd:\ne: none": {
        "a": None,
        "b": None,
        "c": None,
        "d": None,
        "e": "none",
    },
    "a: 1_000\nb: -0x1F\nc: 010\nd: +0b11\ne: 0o7\nf: 08\ng: 0_": {
        "a": 1000,
        "b": -31,
        "c": 8,
        "d": 3,
        "e": "0o7",
        "f": "08",
        "g": 0,
    },
    "a: 0.5\nb: 1.\nc: .5\nd: 1.5e+3\ne: 1e-3\nf: -1_0.5\ng: 1.5e3": {
        "a": 0.5,
        "b": 1.0,
        "c": 0.5,
        "d": 1500.0,
        "e": "1e-3",
        "f": -10.5,
        "g": "1.5e3",
    },
    "a: -.inf\nb: .NaN\nc: 1.2.3": {"a": -math.inf, "b": math.nan, "c": "1.2.3"},
    "a: two words \nb: a:b#c\nc: http://h:1/x\nd: -x\ne: '#'": {
        "a": "two words",
        "b": "a:b#c",
        "c": "http://h:1/x",
        "d": "-x",
        "e": "#",
    },
    # quotes
    "a: 'it''s' # said\nb: \"\\u4e16\\n\\\"\\x41\\t\"\n'c d': \"'\"\n\"e\" : 1": {
        "a": "it's",
        "b": '世\n"A\t',
        "c d": "'",
        "e": 1,
    },
    "模型: 你好": {"模型": "你好"},
    # blocks
    "a:\n  b:\n    c: 1\n  d: 2\ne: 3": {"a": {"b": {"c": 1}, "d": 2}, "e": 3},
    "stop:\n- <|eot|>\n- 'User:'\nn: 1": {"stop": ["<|eot|>", "User:"], "n": 1},
    "a:\n  - b: 1\n    c: 2\n  -\n    d: 3\n  - - 1\n    - 2\n  -": {
        "a": [{"b": 1, "c": 2}, {"d": 3}, [1, 2], None]
    },
    "- 1\n-   a: 2\n    b: 3\n- # none\n": [1, {"a": 2, "b": 3}, None],
    "a: # below\n  # here\n\n  1\n": {"a": 1},
    "3: a\nyes: b\n": {3: "a", True: "b"},
    # texts
    "a: |\n  x\n    y\n\n  z\n\nb: 1": {"a": "x\n  y\n\nz\n", "b": 1},
    "a: |-\n  x\n\nb: |+\n  y\n\n\nc: |2\n    z": {"a": "x", "b": "y\n\n\n", "c": "  z"},
    "a: >\n  x\n  y\n\n  z\n   w\n  v\n": {"a": "x y\nz\n w\nv\n"},
    "a: |\n\n\nb: |+\n\n\nc: >-\n\n  x": {"a": "", "b": "\n\n", "c": "\nx"},
    "- |\n x # y\n- 2": ["x # y\n", 2],
    # as JSON
    '{"a": {"b": [1, "x", null, true]}, "c":1.5}': {"a": {"b": [1, "x", None, True]}, "c": 1.5},
    '{\n  "a": [\n    1, # one\n    2,\n  ],\n  b: x y,\n}\n': {"a": [1, 2], "b": "x y"},
    "a: [x, 'y, z', [], {}] # list\nb: 1": {"a": ["x", "y, z", [], {}], "b": 1},
}
REFUSED: dict[str, int] = {  # with the line that is named
    "a: 1\nb: &x 2": 2,
    "a: *x": 1,
    "a: !!str 1": 1,
    "a: 1\n<<: {b: 2}": 2,
    "? a\n: b": 1,
    "%YAML 1.1\n---\na: 1": 2,
    "a: 1\n---\nb: 2": 2,
    "a: 1\n...\n": 2,
    "a: 2001-01-01": 1,
    "a: 12:30:45": 1,
    "a: b: c": 1,
    "a: 1\na: 2": 2,
    "{a: 1,\n a: 2}": 2,
    "a: x\n  y": 2,
    "a: 'x\n  y'": 1,
    'a: "\\q"': 1,
    'a: "\\ud83d"': 1,
    "a: 'x' y": 1,
    "a: @x": 1,
    "a: `x`": 1,
    "a:\n\tb: 1": 2,
    "a: 1\n  b: 2": 2,
    "  a: 1\nb: 2": 2,
    "a: 1\n- 2": 2,
    "- 1\na: 2": 2,
    "[1": 1,
    "[1, 2\n\n": 3,
    "a: [1 2\n 3]": 2,
    "[1]]": 1,
    "{a}": 1,
    "{a:1}": 1,
    "[a: 1]": 1,
    "[,]": 1,
    "a: |x\n b": 1,
    "a: |\n    \n  x": 3,
    "a: \x07": 1,
    "just text\nand more": 2,
}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal in kind, in order and in NaNs, too."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("text", READ)
def test_simple_yaml_is_read(text: str) -> None:
    """Numbers, words, quotes, blocks, texts and what JSON looks like."""
    assert same(block.load(text), READ[text])


@pytest.mark.parametrize("text", READ)
def test_pyyaml_reads_the_same(text: str) -> None:
    """It is the judge: an option means the same in every built file."""
    yaml = pytest.importorskip("yaml")
    assert same(yaml.safe_load(text), READ[text])


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused_by_its_line(text: str) -> None:
    """What PyYAML may read otherwise is not guessed."""
    with pytest.raises(block.UnsupportedYaml, match=rf"\Aline {REFUSED[text]}: .*\.json"):
        block.load(text)


# fmt: off
PIECES = (
    "\n", "\n", "\n  ", "\n    ", " ", "  ", "\t",
    "a: ", "b:", "- ", "-", "# c", " # c", "[", "]", "{", "}", ",", ", ", ":", ": ", "1",
    "0.5", "yes", "~", "'", '"', "'x'", '"\\n"', "|", "|-", ">\n", "|+\n", "&a", "?",
    "--- ", "010", "12:30", "=", "x y", "中", "-1", ".nan",
)
# fmt: on


def test_no_text_is_read_in_another_way_than_pyyaml_does() -> None:
    """Of many random texts, what is read at all is read the same."""
    yaml = pytest.importorskip("yaml")
    rng, parsed = random.Random(0), 0
    for _ in range(3000):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 12)))
        try:
            found = block.load(text)
        except block.UnsupportedYaml:
            continue
        parsed += 1
        assert same(found, yaml.safe_load(text)), repr(text)
    assert parsed > 300
