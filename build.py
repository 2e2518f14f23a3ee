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
from kuwa_min.log import redaction
from kuwa_min.packing.assemble import NO_LIBRARIES, Libraries, Recipe, build_file
from kuwa_min.packing.build_options import build_parser, check, sources_of, target_of
from kuwa_min.packing.core_zip import python_here
from kuwa_min.packing.custom.check_imports import check_imports, check_shadows, provided
from kuwa_min.packing.custom.executor_files import Executor, find_executor, is_custom
from kuwa_min.packing.custom.first_import import import_once
from kuwa_min.packing.custom.requirements import read_requirements
from kuwa_min.packing.libraries.cards import Cards
from kuwa_min.packing.libraries.page_libraries import (
    NO_PAGE_LIBRARIES,
    PLAIN,
    PageLibraries,
    Unavailable,
    find_page_libraries,
)
from kuwa_min.packing.libraries.request import LibraryRequest, package_of
from kuwa_min.packing.model_files import model_files
from kuwa_min.registry import BackendInfo, backend_infos

THIN = ("torch",)  # left to the host by --thin, with the packages that only torch requires


def main(argv: Sequence[str] | None = None) -> int:
    """Build the backends that the command line names; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if not (options.backend or options.list):
        parser.error("name at least one backend; --list shows them")
    try:
        return _list(backend_infos()) if options.list else _build_all(options)
    except (KuwaError, OSError) as error:
        print(f"{parser.prog}: error: {redaction.clean(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _list(known: dict[str, BackendInfo]) -> int:
    width = max(map(len, known))
    for name, backend in known.items():
        print(f"{name:{width}}: {backend.summary}")
    return 0


def _build_all(options: argparse.Namespace) -> int:
    """Check all names and options, then build each backend; raises UsageError."""
    known = backend_infos()
    executors: dict[str, Executor] = {}
    for backend in dict.fromkeys(options.backend):
        if backend not in known and is_custom(backend):
            taken = [*known, *(one.name for one in executors.values())]
            executors[backend] = find_executor(Path(backend), options.with_files, taken)
        elif backend not in known:
            raise UsageError(f"no backend is called {backend!r}; known are {', '.join(known)}")
        if options.model and (backend in executors or not known[backend].requires):
            raise UsageError(f"{backend} has no use for a model")
        if options.more and backend in known and not known[backend].requires:
            raise UsageError(f"{backend} uses no libraries: --with is for a backend that does")
    if (options.requires or options.with_files or options.in_folder) and not executors:
        raise UsageError(
            "--requires, --with_files and --in_folder are for a custom executor; "
            "--with adds packages to a backend"
        )
    infos = {**known, **{name: _info(one, options) for name, one in executors.items()}}
    asked = [*dict.fromkeys(options.backend)]
    check(options, {name: _packages(infos[name], options) for name in asked})
    for backend in asked:
        _build(infos[backend], options, executors.get(backend))
    return 0


def _info(executor: Executor, options: argparse.Namespace) -> BackendInfo:
    """Describe a custom executor as a backend; its requirements are named by their own text."""
    required = [one for path in options.requires for one in read_requirements(path)]
    return BackendInfo(executor.name, executor.summary, {one: one for one in required})


def _packages(backend: BackendInfo, options: argparse.Namespace) -> set[str]:
    """Return the names of the packages that a backend requires, and that travel."""
    required = (*backend.requires.values(), *options.more)
    return {package_of(one) for one in required} - {*_left_to_host(options)}


def _left_to_host(options: argparse.Namespace) -> tuple[str, ...]:
    return THIN if options.thin else ()


def _build(
    backend: BackendInfo, options: argparse.Namespace, executor: Executor | None = None
) -> None:
    model = options.model if options.embed_model else None
    has_libraries = backend.requires or options.more
    libraries = _libraries(backend, options) if has_libraries else NO_LIBRARIES
    if options.lock and not has_libraries:
        log_step(f"{backend.name} has no libraries, so {options.lock} is neither made nor followed")
    if executor:
        check_shadows(executor, (one.path for one in libraries.files))
        names = {*provided(one.path for one in libraries.files), *libraries.host_packages}
        check_imports(executor, names, log_step)
    folder, output = options.in_folder, Path(options.output)
    page = _page_libraries(options, wanted=bool(has_libraries))
    recipe = Recipe(backend, output, libraries, model, options.pyc, executor, folder, page)
    path = build_file(recipe, log_step)
    if executor:
        import_once(path, backend.name, python_here(libraries.target), log_step)
    print(f"{path}  {path.stat().st_size:,} bytes")
    if model:
        size = sum(one.source.stat().st_size for one in model_files(model))
        log_step(f"the model is inside; it takes {size_text(size)} twice: file and cache")
    if options.kit:
        _make_kit(path, backend, options)


def _libraries(backend: BackendInfo, options: argparse.Namespace) -> Libraries:
    """Find the libraries of a backend for the target of the command line."""
    from kuwa_min.packing.libraries.find import find_libraries
    from kuwa_min.packing.wheels.prune import prune

    house, cards = options.wheelhouse, Cards.of(options)
    request = LibraryRequest(
        backend, target_of(options), sources_of(options), options.lock, house,
        _left_to_host(options), tuple(options.more), cards.driver, cards.llama_index,
        cards.backend_of_ggml(house),
    )  # fmt: skip
    return find_libraries(request, prune if options.prune else list, log_step)


def _page_libraries(options: argparse.Namespace, *, wanted: bool) -> PageLibraries:
    """Return the chat page's libraries; a build that need not have them goes on without."""
    if options.page_libraries == "off" or not (wanted or options.page_libraries):
        return NO_PAGE_LIBRARIES
    cache = options.wheelhouse / "npm"
    try:
        return find_page_libraries(cache, no_index=options.no_index, log_step=log_step)
    except Unavailable as error:
        if options.page_libraries:
            raise
        log_step(f"{error}: {PLAIN}")
        return NO_PAGE_LIBRARIES


def _make_kit(path: Path, backend: BackendInfo, options: argparse.Namespace) -> None:
    from kuwa_min.packing.kit.folder import make_kit

    beside = None if options.embed_model else options.model
    make_kit(options.kit, path, backend.name, beside, options.sign)
    print(f"{options.kit}  the kit to carry in; its README.md says how to start")


def log_step(text: str) -> None:
    """Write a line about a step to standard error."""
    print(f"build.py: {redaction.clean(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    gc.disable()  # tens of thousands of objects, no cycles: it would take a tenth of a build
    sys.exit(main())
