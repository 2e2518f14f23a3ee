"""The command line of build.py: its options, which of them exclude each other, what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path

from kuwa_min.errors import UsageError
from kuwa_min.registry import backend_infos

from .custom.executor_files import is_custom
from .kit.folder import check_is_free
from .kit.signing import check_key
from .libraries.cards import EXAMPLE, TORCH_BUILD, Cards
from .model_files import model_files
from .wheels.constraints import read_constraints
from .wheels.lock import parse_requirement
from .wheels.resolve import PYTORCH, WheelSources
from .wheels.target import TargetPython

DESCRIPTION = "Make dist/kuwa-<backend>.pyz for each backend: one file that needs a Python only."
WHAT = "what to build: a backend (--list), or the .py file or folder of a custom executor"
MODEL = "take this model along: a folder, or a .gguf file"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of build.py."""
    parser = argparse.ArgumentParser(prog="build.py", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("backend", nargs="*", help=WHAT)
    parser.add_argument("--list", action="store_true", help="list the backends and exit")
    parser.add_argument("--output", metavar="DIR", default="dist", help="default: %(default)s")
    _add_target(parser.add_argument_group("the machine that the file is for; default: this one"))
    _add_sources(parser.add_argument_group("where the libraries come from"))
    _add_contents(parser.add_argument_group("what travels"))
    _add_custom(parser.add_argument_group("custom executors"))
    return parser


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--python", metavar="MINOR", help="its Python, such as 3.12")
    group.add_argument("--platform", metavar="TAG", help="such as manylinux_2_28_x86_64")
    group.add_argument("--cpu", action="store_true", help="torch without CUDA")
    group.add_argument(
        "--cuda", metavar="WHICH", nargs="?", const="", type=_cuda,
        help="for NVIDIA's cards. llamacpp: compile llama.cpp for them, for all that CUDA 13 knows "
        "or for these architectures, such as 90 or '80-real;90'; huggingface: torch for this CUDA, "
        "such as cu128",
    )  # fmt: skip
    group.add_argument(
        "--vulkan", action="store_true",
        help="llama.cpp for graphics cards of every vendor, besides processors; compiled here",
    )  # fmt: skip
    group.add_argument(
        "--slow_shaders", action="store_true",
        help="with --vulkan: take a glslc that cannot use a card's matrix units",
    )  # fmt: skip
    group.add_argument(
        "--driver", metavar="VERSION", help="torch for the CUDA of this NVIDIA driver, such as 550"
    )


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--newest", action="store_true",
        help="the newest versions, not those that were tested with this release",
    )  # fmt: skip
    group.add_argument("--lock", metavar="FILE", type=Path, help="made if absent, else followed")
    group.add_argument(
        "--wheels", metavar="DIR", type=Path, action="append", default=[],
        help="use the wheels in here, whatever the index has",
    )  # fmt: skip
    group.add_argument(
        "--find_links", metavar="DIR", action="append", default=[],
        help="look for wheels here too: a folder or an address",
    )  # fmt: skip
    group.add_argument("--no_index", action="store_true", help="ask no index: offline")
    group.add_argument(
        "--torch_index", metavar="URL", default=PYTORCH,
        help="where --cpu and --cuda find their torch; default: %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--llama_index", metavar="URL",
        help="take a compiled llama-cpp-python of others from this index: trust its makers",
    )  # fmt: skip
    group.add_argument(
        "--wheelhouse", metavar="DIR", type=Path, default=Path("build/wheels"),
        help="keep what was downloaded or compiled for the next build; default: %(default)s",
    )  # fmt: skip


def _add_contents(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--with", metavar="NAME", dest="more", type=_package, action="append", default=[],
        help="put this package in, too, with what it requires, such as bitsandbytes",
    )  # fmt: skip
    group.add_argument("--prune", action="store_true", help="leave out what inference never needs")
    group.add_argument("--pyc", action="store_true", help="compile what is imported; first start")
    group.add_argument("--thin", action="store_true", help="use the torch that the host has")
    group.add_argument(
        "--page_libraries", choices=("on", "off"),
        help="Markdown and highlighted code on the chat page, by npm packages; "
        "default: on for backends with libraries",
    )  # fmt: skip
    group.add_argument("--model", metavar="PATH", type=Path, help=MODEL)
    group.add_argument("--embed_model", action="store_true", help="put the model inside the file")
    group.add_argument("--kit", metavar="DIR", type=Path, help="make a folder to carry in")
    group.add_argument(
        "--sign", metavar="KEY", type=Path, help="sign the kit with this key, one of ssh-keygen"
    )


def _add_custom(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--requires", metavar="FILE", type=Path, action="append", default=[],
        help="its libraries: a requirements.txt",
    )  # fmt: skip
    group.add_argument(
        "--with_files", metavar="PATH", type=Path, action="append", default=[],
        help="a file or folder that travels beside it, under its own name",
    )  # fmt: skip
    group.add_argument(
        "--in_folder", action="store_true", help="start it in its own folder, as Kuwa's image does"
    )


def _cuda(text: str) -> str:
    """Parse the value of --cuda, which may be left out: refuse what was meant as a backend."""
    is_value = not text or text[0].isdigit() or TORCH_BUILD.fullmatch(text)
    if not is_value and (text in backend_infos() or is_custom(text)):
        raise argparse.ArgumentTypeError(
            f"it takes {text!r} for its value: name what to build first, as in {EXAMPLE}"
        )
    return text


def _package(text: str) -> str:
    """Parse the value of --with: the name of a package, and versions of it."""
    try:
        requirement = parse_requirement(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if requirement.url:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give its name here, and the folder of its wheel by --wheels DIR"
        )
    return str(requirement)


def check(options: argparse.Namespace, packages: Mapping[str, Collection[str]]) -> None:
    """Raise UsageError for options that exclude each other, before anything is built.

    packages: what each backend requires, by the names of the packages.
    """
    if options.model:
        model_files(options.model)
    if options.model and not (options.embed_model or options.kit):
        raise UsageError("--model goes with --embed_model (inside the file) or --kit DIR (beside)")
    if options.embed_model and not options.model:
        raise UsageError("--embed_model needs --model PATH")
    Cards.of(options).check(packages)
    if len(options.backend) > 1 and (options.lock or options.kit):
        raise UsageError("--lock and --kit are for one backend at a time")
    if options.kit:
        check_is_free(options.kit)
    if options.sign:
        if not options.kit:
            raise UsageError("--sign signs a kit: add --kit DIR")
        check_key(options.sign)


def target_of(options: argparse.Namespace) -> TargetPython:
    """Return the machine that the file is for; raises UsageError."""
    if options.python and options.platform:
        return TargetPython.of(options.python, options.platform)
    here = TargetPython.of_this_machine()
    return TargetPython.of(options.python or here.python, options.platform or here.platform)


def sources_of(options: argparse.Namespace) -> WheelSources:
    """Return where the libraries come from."""
    return WheelSources(
        wheels=tuple(options.wheels),
        find_links=tuple(options.find_links),
        no_index=options.no_index,
        torch_index=options.torch_index,
        torch_variant=Cards.of(options).torch_variant,
        preferred=() if options.newest else read_constraints().lines,
    )
