"""Build one file per backend, for this machine or another: python build.py huggingface.

This is the command line of kuwa_min/packing.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from kuwa_min.bundle.manifest import size_text
from kuwa_min.errors import KuwaError, UsageError
from kuwa_min.packing.assemble import NO_LIBRARIES, Libraries, Recipe, build_file
from kuwa_min.packing.model_files import model_files
from kuwa_min.packing.wheels.resolve import PYTORCH, WheelSources
from kuwa_min.registry import BackendInfo, backend_infos

DESCRIPTION = "Make dist/kuwa-<backend>.pyz for each backend: one file that needs a Python only."
THIN = ("torch",)  # left to the host by --thin, with the packages that only torch requires
MODEL = "take this model along: a folder, or a .gguf file"


def main(argv: Sequence[str] | None = None) -> int:
    """Build the backends that the command line names; return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not (options.backend or options.list):
        parser.error("name at least one backend; --list shows them")
    try:
        return _list(backend_infos()) if options.list else _build_all(options)
    except (KuwaError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build.py", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("backend", nargs="*", help="what to build; --list shows what there is")
    parser.add_argument("--list", action="store_true", help="list the backends and exit")
    parser.add_argument("--output", metavar="DIR", default="dist", help="default: %(default)s")
    _add_target(parser.add_argument_group("the machine that the file is for; default: this one"))
    _add_sources(parser.add_argument_group("where the libraries come from"))
    _add_contents(parser.add_argument_group("what travels"))
    return parser


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--python", metavar="MINOR", help="its Python, such as 3.12")
    group.add_argument("--platform", metavar="TAG", help="such as manylinux_2_28_x86_64")
    group.add_argument("--cpu", action="store_true", help="torch without CUDA")
    group.add_argument("--cuda", metavar="VARIANT", help="torch for this CUDA, such as cu128")


def _add_sources(group: argparse._ArgumentGroup) -> None:
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
        "--wheelhouse", metavar="DIR", type=Path, default=Path("build/wheels"),
        help="keep what was downloaded or compiled for the next build; default: %(default)s",
    )  # fmt: skip


def _add_contents(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prune", action="store_true", help="leave out what inference never needs")
    group.add_argument("--pyc", action="store_true", help="compile what is imported; first start")
    group.add_argument("--thin", action="store_true", help="use the torch that the host has")
    group.add_argument("--model", metavar="PATH", type=Path, help=MODEL)
    group.add_argument("--embed_model", action="store_true", help="put the model inside the file")
    group.add_argument("--kit", metavar="DIR", type=Path, help="make a folder to carry in")


def _list(known: dict[str, BackendInfo]) -> int:
    width = max(map(len, known))
    for name, backend in known.items():
        print(f"{name:{width}}: {backend.summary}")
    return 0


def _build_all(options: argparse.Namespace) -> int:
    """Check all names, then build each backend; raises UsageError."""
    known = backend_infos()
    for backend in options.backend:
        if backend not in known:
            raise UsageError(f"no backend is called {backend!r}; known are {', '.join(known)}")
        if options.model and not known[backend].requires:
            raise UsageError(f"{backend} has no use for a model")
    _check(options)
    for backend in dict.fromkeys(options.backend):
        _build(known[backend], options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other, before anything is built."""
    if options.model:
        model_files(options.model)
    if options.model and not (options.embed_model or options.kit):
        raise UsageError("--model goes with --embed_model (inside the file) or --kit DIR (beside)")
    if options.embed_model and not options.model:
        raise UsageError("--embed_model needs --model PATH")
    if options.cpu and options.cuda:
        raise UsageError("--cpu and --cuda cannot both be")
    if len(options.backend) > 1 and (options.lock or options.kit):
        raise UsageError("--lock and --kit are for one backend at a time")
    if options.kit:
        from kuwa_min.packing.kit import check_is_free

        check_is_free(options.kit)


def _build(backend: BackendInfo, options: argparse.Namespace) -> None:
    model = options.model if options.embed_model else None
    libraries = _libraries(backend, options) if backend.requires else NO_LIBRARIES
    recipe = Recipe(backend, Path(options.output), libraries, model, options.pyc)
    path = build_file(recipe, log_step)
    print(f"{path}  {path.stat().st_size:,} bytes")
    if model:
        size = sum(one.source.stat().st_size for one in model_files(model))
        log_step(f"the model is inside; it takes {size_text(size)} twice: file and cache")
    if options.kit:
        _make_kit(path, backend, options)


def _libraries(backend: BackendInfo, options: argparse.Namespace) -> Libraries:
    """Find the libraries of a backend for the target of the command line."""
    from kuwa_min.packing.libraries import LibraryRequest, find_libraries
    from kuwa_min.packing.wheels.prune import prune
    from kuwa_min.packing.wheels.target import TargetPython

    if options.python and options.platform:
        target = TargetPython.of(options.python, options.platform)
    else:
        here = TargetPython.of_this_machine()
        target = TargetPython.of(options.python or here.python, options.platform or here.platform)
    sources = WheelSources(
        wheels=tuple(options.wheels),
        find_links=tuple(options.find_links),
        no_index=options.no_index,
        torch_index=options.torch_index,
        torch_variant="cpu" if options.cpu else options.cuda or "",
    )
    host = THIN if options.thin else ()
    request = LibraryRequest(backend, target, sources, options.lock, options.wheelhouse, host)
    return find_libraries(request, prune if options.prune else list, log_step)


def _make_kit(path: Path, backend: BackendInfo, options: argparse.Namespace) -> None:
    from kuwa_min.packing.kit import make_kit

    beside = None if options.embed_model else options.model
    make_kit(options.kit, path, backend.name, beside)
    print(f"{options.kit}  the kit to carry in; its README.md says how to start")


def log_step(text: str) -> None:
    """Write a line about a step to standard error."""
    print(f"build.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    gc.disable()  # tens of thousands of objects, no cycles: it would take a tenth of a build
    sys.exit(main())
