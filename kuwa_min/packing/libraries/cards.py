"""The choice of graphics cards: which build of torch, or what is compiled into llama.cpp.

--cuda is for either: its value says for which.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError
from kuwa_min.packing.llama_cpp.cuda import cuda_backend, parse_architectures
from kuwa_min.packing.llama_cpp.ggml_backend import GgmlBackend
from kuwa_min.packing.llama_cpp.vulkan import vulkan_backend
from kuwa_min.packing.wheels.driver import variants

from .llama_cpp import LLAMA

TORCH = "torch"
TORCH_BUILD = re.compile(r"cu\d{3}")
EXAMPLE = "build.py llamacpp --cuda 90"
EXCLUSIVE = (  # pairs of options
    ("--cpu", "--cuda", "--cpu and --cuda cannot both be"),
    ("--cuda", "--vulkan", "--cuda and --vulkan each make a file of their own: choose one"),
    ("--driver", "--cpu", "--driver chooses the CUDA of torch: leave --cpu and --cuda out"),
    ("--driver", "--cuda", "--driver chooses the CUDA of torch: leave --cpu and --cuda out"),
    ("--llama_index", "--cuda", "--llama_index takes what others compiled: leave --cuda out"),
    ("--llama_index", "--vulkan", "--llama_index takes what others compiled: leave --vulkan out"),
)


class Cards(NamedTuple):
    """What a command line says about graphics cards; "" and False for what it does not say."""

    cuda: str | None = None  # "cu128", "75-real;90"; "" without a value
    cpu: bool = False
    driver: str = ""
    vulkan: bool = False
    slow_shaders: bool = False
    llama_index: str = ""

    @classmethod
    def of(cls, options: argparse.Namespace) -> Cards:
        """Return what these options say."""
        values = (getattr(options, name) for name in cls._fields)
        return cls(*(cls._field_defaults[name] if value is None else value
                     for name, value in zip(cls._fields, values, strict=True)))  # fmt: skip

    def check(self, packages: Mapping[str, Collection[str]]) -> None:
        """Raise UsageError for options that exclude each other, or that a backend has no use for.

        packages: backend -> the names of the packages that travel in its file.
        """
        chosen = dict(self._chosen())
        for one, other, reason in EXCLUSIVE:
            if one in chosen and other in chosen:
                raise UsageError(reason)
        if self.slow_shaders and not self.vulkan:
            raise UsageError("--slow_shaders goes with --vulkan")
        for option, package in chosen.items():
            for backend, names in packages.items():
                if package not in names:
                    raise UsageError(self._useless(option, package, backend, names))
        if chosen.get("--cuda") == LLAMA:
            parse_architectures(self.cuda or "")
        if self.driver:
            variants(self.driver)

    def _chosen(self) -> Iterator[tuple[str, str]]:
        """Yield the options that are given, each with the package that it is about."""
        of_cuda = TORCH if self.torch_build else LLAMA
        given = {
            "--cpu": (self.cpu, TORCH),
            "--driver": (self.driver, TORCH),
            "--cuda": (self.cuda is not None, of_cuda),
            "--vulkan": (self.vulkan, LLAMA),
            "--llama_index": (self.llama_index, LLAMA),
        }
        yield from ((option, package) for option, (is_given, package) in given.items() if is_given)

    def _useless(self, option: str, package: str, backend: str, names: Collection[str]) -> str:
        """Return what is wrong with an option about a package that a backend does without."""
        if option == "--cuda" and package == LLAMA and TORCH in names:
            return (
                f"--cuda {self.cuda!r} names no build of torch: say which, such as cu128"
                f" (architectures are for {EXAMPLE})"
            )
        what = "torch" if package == TORCH else "llama.cpp"
        more = f"; {EXAMPLE} names architectures" if option == "--cuda" and LLAMA in names else ""
        return f"{backend} takes no {what} along: leave {option} out{more}"

    @property
    def torch_build(self) -> str:
        """Return the value of --cuda if it is for torch: "cu128"."""
        return self.cuda if self.cuda and TORCH_BUILD.fullmatch(self.cuda) else ""

    @property
    def torch_variant(self) -> str:
        """Return the build of torch that is asked for: "cpu", "cu128"; "" for the usual one."""
        return "cpu" if self.cpu else self.torch_build

    def backend_of_ggml(self, wheelhouse: Path) -> GgmlBackend | None:
        """Find what compiles llama.cpp for cards; None if nothing is to; raises UsageError."""
        if self.cuda is not None and not self.torch_build:
            return cuda_backend(parse_architectures(self.cuda), os.environ)
        if not self.vulkan:
            return None
        folder = wheelhouse / "stand-ins"
        return vulkan_backend(os.environ, folder, slow_shaders=self.slow_shaders)
