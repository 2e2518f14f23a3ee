"""The attributes of Kuwa's own executor classes beyond ours, for files that use them.

All of them can be replaced: a subclass, or `self.host = ...`, may use such a name for something
else. So our own code reads the options, never these attributes; but a value that a class gives one
of CLASS_DEFAULTS becomes the default of the option, as in Kuwa.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kuwa_min.chat.modelfile import Modelfile
from kuwa_min.options import address

# Attributes of an executor's class that set the defaults of options -> the options.
CLASS_DEFAULTS = {
    "kernel_url": "kernel_url",
    "executor_path": "executor_path",
    "log_level": "log",
    "executor_iface_version": "version",
    "concurrent_req_limit": "concurrent_req_limit",
}


class View:
    """A non-data descriptor: computed at each access like a property, but can be assigned to."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, executor: Any, owner: type | None = None) -> Any:
        return self if executor is None else self._compute(executor)


def _option(name: str) -> View:
    def compute(executor: Any) -> Any:
        return getattr(executor.args, name)

    compute.__doc__ = f"Return the value of --{name}."
    return View(compute)


def _missing(advice: str) -> View:
    def compute(executor: Any) -> Any:
        raise AttributeError(advice)

    compute.__doc__ = advice
    return View(compute)


class KuwaAttributes:
    """The attributes of `kuwa.executor.LLMExecutor` in Kuwa 0.3.0 to 0.4."""

    args: Any
    kernel_url = _option("kernel_url")
    ignore_kernel = _option("ignore_kernel")
    https = _option("https")
    host = _option("host")
    port = _option("port")
    executor_path = _option("executor_path")
    executor_iface_version = _option("version")
    concurrent_req_limit = _option("concurrent_req_limit")
    log_level = _option("log")
    app = _missing("self.app: there is no FastAPI application here, so no routes can be added")
    metrics = _missing("self.metrics: not provided; self.count_tokens() adds tokens to /metrics")

    @View
    def access_codes(self) -> list[str]:
        """Return the names that this executor registers under."""
        return list(self.args.access_code)

    def get_reg_endpoint(self) -> str:
        """Return the URL of the first endpoint, as registered."""
        scheme = "https" if self.args.https or self.args.tls_cert else "http"
        authority = address.join_host_port(self.args.host, self.args.port)
        return f"{scheme}://{authority}{self.args.executor_path}"

    def in_debug(self) -> bool:
        """Tell whether the log level is DEBUG."""
        return bool(self.args.log == "DEBUG")

    def parse_modelfile(self, raw_modelfile: str | None) -> Modelfile:
        """Parse a form's modelfile, as Kuwa 0.3.0 does: messages are {"msg", "isbot"}."""
        modelfile = Modelfile.from_json(raw_modelfile)
        messages: list[Any] = [
            {"msg": message["content"], "isbot": message["role"] == "assistant"}
            for message in modelfile.messages
        ]
        modelfile.messages = messages
        return modelfile


def class_defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of options that an executor's class sets: option -> value."""
    found = {option: getattr(kind, name) for name, option in CLASS_DEFAULTS.items()}
    return {option: value for option, value in found.items() if isinstance(value, str | int)}


def follow_options(executor: KuwaAttributes, args: argparse.Namespace) -> None:
    """Set the attributes whose class values are defaults to the options' values."""
    for name, option in CLASS_DEFAULTS.items():
        if option in class_defaults(type(executor)):
            vars(executor).setdefault(name, getattr(args, option))


class Headers(Mapping[str, str]):
    """A request's header fields, by case-insensitive name."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._fields[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
