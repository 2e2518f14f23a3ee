"""The options of build.py; most are tested by what they do."""

from __future__ import annotations

import pytest

from kuwa_min.packing.build_options import build_parser, sources_of


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("llamacpp --cuda", ""), ("--cuda 90 llamacpp", "90"), ("huggingface --cuda cu128", "cu128")],
)
def test_the_value_of_cuda_may_be_left_out(line: str, cuda: str) -> None:
    """It ends a command line then, or stands before another option."""
    options = build_parser().parse_args(line.split())
    assert options.cuda == cuda
    assert sources_of(options).torch_variant == ("cu128" if cuda == "cu128" else "")


@pytest.mark.parametrize("line", ["--cuda llamacpp", "llamacpp --cuda ./my_executor.py"])
def test_cuda_takes_no_backend_for_its_value(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would swallow what is to be built."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(line.split())
    word = line.split()[-1]
    said = f"error: argument --cuda: it takes '{word}' for its value: name what to build first, as"
    assert said in capsys.readouterr().err
