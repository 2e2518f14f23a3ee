"""The command line: run a backend, a .py file or a verb. The only module that prints."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from kuwa_min.options import address, general

from . import __version__, log, process, registry
from .errors import KuwaError, StartError, UsageError, import_advice, traceback_line
from .executor import has_run
from .log.parser import SafeParser

PROGRAM = "kuwa-executor"
FILE_VERBS = {
    "verify": "check this file and what it has unpacked; put back what is damaged",
    "cache": "list what files have unpacked here; --clean removes what is not in use",
    "unpack": "unpack to a folder, for images and read-only disks",
}
ABOUT_VERBS = {  # of VERBS
    "kernel": "run a small Kernel with a chat page, to try executors with",
    "chat": "chat at the terminal, with a Kernel or an OpenAI-compatible server",
    "ask": "ask one question, for scripts",
}
DOCUMENTS = {
    "check": "say whether this file can run on this machine, and end",
    "info": "say all that is in this file: packages, hashes, licences, needs",
    "sbom": "print the bill of materials (CycloneDX JSON)",
    "licenses": "print every package's licence",
}
LIST_HEAD = "Available model executors:"
LIST_TAIL = 'Use "{} [executor] --help" to get more information.'


def main(argv: Sequence[str] | None = None, *, packed: str = "") -> int:
    """Run the command line; return the exit code, or raise SystemExit as argparse does.

    packed is the path of the custom executor that the first argument names, in a file of its own.
    """
    process.open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = _program()
    try:
        if packed:
            run_packed(packed, f"{program} {arguments[0]}", arguments[1:])
            return 0
        return _dispatch(program, arguments)
    except KuwaError as error:
        return log.write_error(program, error)
    except (MemoryError, RuntimeError) as error:  # such as no thread for a Kernel
        line = traceback_line(error, with_message=True)
        return log.write_error(program, StartError(f"it cannot go on: {line}"))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of --list or --help has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - nothing left to say
        return 1


def _program() -> str:
    name = process.program_name()
    return "python -m kuwa_min" if name == "__main__.py" else name or PROGRAM


def _dispatch(program: str, arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        _run(program, arguments[0], arguments[1:])
        return 0
    parser = _create_parser(program)
    asked, others = parser.parse_known_args(arguments)
    if others or asked.executor:
        parser.error(f"the executor's name comes first, then {' '.join(others) or 'its options'}")
    elif asked.list:
        print(list_text(program))
        for line in registry.hidden_plugins():
            print(f"{program}: {line}", file=sys.stderr)
    elif asked.version:
        print(version_text())
    elif asked.document:
        print_document(asked.document)
    else:
        parser.error(f"name an executor: {', '.join(registry.names())} (--list describes them)")
    return 0


def _create_parser(program: str) -> argparse.ArgumentParser:
    parser = SafeParser(
        prog=program,
        description="Put a language model behind a Kuwa Kernel.",
        epilog=_help_on_verbs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] [--list] [--version] [--check] executor [options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "executor",
        nargs="*",
        help="a backend, the path of a .py file with an LLMExecutor, or a verb; comes first",
    )
    parser.add_argument("--list", action="store_true", help="describe the backends of this build")
    parser.add_argument("--version", action="store_true", help="say what this build is made of")
    for name, about in DOCUMENTS.items():
        parser.add_argument(
            f"--{name}", action="store_const", const=name, dest="document", help=about
        )
    return parser


def _help_on_verbs() -> str:
    verbs = {**ABOUT_VERBS, **FILE_VERBS}
    lines = [f"  {name:<11} {about}" for name, about in verbs.items()]
    root = "  --root DIR  where libraries are unpacked to and looked for; also KUWA_MIN_ROOT"
    return "\n".join(["verbs:", *lines, "", "of files that carry libraries:", root])


def print_document(name: str) -> None:
    """Print one of DOCUMENTS; raises UsageError in a checkout."""
    from kuwa_min.bundle import commands

    texts = {"info": commands.info, "sbom": commands.sbom, "licenses": commands.licenses}
    for line in commands.check() if name == "check" else [texts[name]()]:
        print(line, flush=True)


def list_text(program: str) -> str:
    """Return the text of --list."""
    infos = {**registry.backend_infos(), **_others()}
    width = max(map(len, infos), default=0)
    lines = [f"{info.name:<{width}}: {info.summary}" for info in infos.values()]
    return "\n".join([LIST_HEAD, "", *lines, "", LIST_TAIL.format(program)])


def _others() -> dict[str, registry.BackendInfo]:
    """Return what is not of ours: what the file packs, or what installed packages bring."""
    from kuwa_min.bundle import manifest

    found = manifest.read_manifest()
    if found is None:
        return registry.plugin_infos()
    return {
        name: registry.BackendInfo(name, summary, {})
        for name, summary in found["executors"].items()
    }


def version_text() -> str:
    """Return the text of --version: the build's manifest, or the version alone."""
    from kuwa_min.bundle import manifest

    found = manifest.read_manifest()
    return manifest.describe(found) if found else f"kuwa-min {__version__}"


def _run(program: str, name: str, rest: list[str]) -> None:
    if name in VERBS:
        VERBS[name](f"{program} {name}", rest)
    elif name in FILE_VERBS:
        run_file_verb(name, program, rest)
    elif name.endswith(".py"):
        run_file(name, rest)
    elif registry.has(name):
        run_backend(name, f"{program} {name}", rest)
    elif "--check" in rest and name in _others():
        print_document("check")
    elif plugin := registry.find_plugin(name):
        registry.load_plugin(plugin)().run(rest, program=f"{program} {name}")
    else:
        raise UsageError(_unknown(name))


def run_backend(name: str, program: str, rest: list[str]) -> None:
    """Run a backend of this build; --help works without its libraries."""
    if "--check" in rest:
        print_document("check")
        _check_arguments(name, [word for word in rest if word != "--check"])
        return
    executor = registry.load(name)
    if not {"-h", "--help"}.intersection(rest):
        registry.check_libraries(name)
    executor().run(rest, program=program)


def _check_arguments(name: str, rest: list[str]) -> None:
    """Print what a backend of this file says of its options before it runs, if there are any."""
    from kuwa_min.bundle import commands

    if not rest or commands.carries_model():  # which only unpacking gives a path
        return
    executor = registry.load(name)()
    executor.args = executor.parser.parse_args(rest)
    for line in executor.check_arguments(commands.carried_packages()):
        print(line, flush=True)


def run_file_verb(name: str, program: str, rest: list[str]) -> None:
    """Run one of FILE_VERBS and print its lines."""
    from kuwa_min.bundle import commands

    verbs = {"verify": commands.verify, "cache": commands.cache, "unpack": commands.unpack}
    try:
        for line in verbs[name](program, rest):
            print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StartError(f"{error.filename or name}: {error.strerror}") from None


def _unknown(name: str) -> str:
    import difflib

    known = [*registry.names(), *_others(), *VERBS, *FILE_VERBS]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if len(name.split()) > 1 and name.split()[0] in known:
        hint = "; each word is one argument, in kuwa.args on a line of its own"
    return (
        f"unknown executor {name!r}: this build has {', '.join(known)}, "
        f"and the path of a .py file works too{hint}"
    )


def run_packed(path: str, program: str, rest: list[str]) -> None:
    """Run the custom executor that a file packs; its --help ends with the file's own verbs."""
    process.name_program(program)
    try:
        run_file(path, rest)
    except SystemExit as end:
        if not end.code and {"-h", "--help"}.intersection(rest):
            print(f"\n{_help_on_verbs()}\n  {', '.join(DOCUMENTS)}: alone, as --DOCUMENT")
        raise


def run_file(path: str, rest: list[str]) -> None:
    """Run a custom executor's file as `python FILE` would, with `kuwa.executor` importable.

    If the file does not call run() itself, the last executor that it defines is run.
    """
    import runpy
    from pathlib import Path

    from . import compat

    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such file")
    compat.install()
    sys.argv = [path, *rest]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        namespace = runpy.run_path(path, run_name="__main__")
        if not has_run():
            registry.executor_in(namespace, "__main__", path)().run(rest)
    except KuwaError:
        raise
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        place = error.filename or path
        raise KuwaError(f"{place}: {line}{error.msg}{_encoding_hint(place)}") from None
    except Exception as error:  # noqa: BLE001 - a custom executor's code
        line = traceback_line(error, with_message=True)
        hint = import_advice(error) or _encoding_hint(path)
        raise KuwaError(f"{path}: {line}{hint}") from None


def _encoding_hint(path: str) -> str:
    """Return the advice to save a source as UTF-8, if it is in UTF-16; "" otherwise."""
    from kuwa_min.options.text_file import REMEDY, encoding_of

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes long to load
            encoding, _ = encoding_of(file.read())
    except OSError:
        return ""
    return "" if encoding == "utf-8" else f"; it is {encoding.upper()} text: {REMEDY}"


def run_kernel(program: str, rest: list[str]) -> None:
    """Run the embedded Kernel alone, until a signal."""
    from kuwa_min.kernel.embedded import EmbeddedKernel
    from kuwa_min.serving.connection_limits import connection_limits

    args = _kernel_parser(program).parse_args(rest)
    process.prepare(args.log)
    # Each chat takes two: its client's connection, and one to the executor
    limits = connection_limits(process.open_file_limit(), slots=0, endpoints=0, servers=2)
    kernel = EmbeddedKernel(
        args.host,
        args.port,
        version=args.version,
        allowed_hosts=args.allowed_hosts,
        executor_hosts=args.executor_hosts,
        limits=limits,
    )
    stop = process.Stop()
    with contextlib.suppress(process.Stopped), stop.on_signals(), kernel:
        stop.eager = False
        stop.wait()
    logging.shutdown()
    if stop.failure:
        raise StartError(stop.failure)


def _kernel_parser(program: str) -> argparse.ArgumentParser:
    host, port = address.host_and_port(general.KERNEL_ADDRESS)
    parser = SafeParser(
        prog=program,
        description="Run a small Kernel with a chat page, to try executors with. It has no users, "
        "no passwords and no storage: do not put it on an open network.",
        formatter_class=general.HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", type=address.host_name, default=host, help="listen here")
    parser.add_argument("--port", type=address.port_number, default=port, help="and on this port")
    parser.add_argument(
        "--version", type=general.version, default=general.INTERFACE_VERSION, help="part of URLs"
    )
    general.add_executor_hosts(parser)
    general.add_allowed_hosts(parser)
    general.add_log_level(parser)
    return parser


def run_chat(program: str, rest: list[str]) -> None:
    """Chat at the terminal."""
    from kuwa_min.kernel.terminal import session

    session.run(program, rest)


def run_ask(program: str, rest: list[str]) -> None:
    """Ask one question."""
    from kuwa_min.kernel.terminal import ask

    ask.run(program, rest)


VERBS: dict[str, Callable[[str, list[str]], None]] = {
    "kernel": run_kernel,
    "chat": run_chat,
    "ask": run_ask,
}
