"""Check values that a user gave: names, numbers, devices.

Each check returns the value as settings and options hold it, or raises ValueError: without words if
what is legal says all.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.config import names as known_names

# The places to serve that are no devices: a program in C++, on the CPU, and the execution providers
# of ONNX Runtime by their names, https://onnxruntime.ai/docs/execution-providers.
CPP = "cpp"
PROVIDER = "ExecutionProvider"
# Versions of a runtime: onnxruntime>=1.17, onnxruntime==1.20.1.
VERSIONS = r"(onnxruntime|torch)(>=|<=|==|~=|!=|<|>)[\w.*]+"
LEGAL_DEVICES = "cpu, cuda, cuda:N"
LEGAL_PLACES = (
    f"{LEGAL_DEVICES}, {CPP}, names of execution providers (TensorrtExecutionProvider), paths of "
    "interpreters (envs/serving/bin/python), versions of a runtime (onnxruntime>=1.17)"
)
KNOWN_MODES = ("check", "create", "tighten")


@dataclass(frozen=True)
class Value:
    """A value that a user gives: its check, what is legal, and its name in a usage line."""

    check: Callable[[Any], Any]
    legal: str
    metavar: str | None = None


def nearest(name: object, legal: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest legal name, or nothing."""
    import difflib  # not at the top: pytest loads this file at every start

    words = list(legal)
    match = difflib.get_close_matches(str(name), words, n=1)
    match = match or [word for word in words if word.startswith(f"{name}_")]
    return f" Did you mean {match[0]!r}?" if match else ""


def one_of(value: Any, kind: str, legal: Iterable[str]) -> str:
    if value not in legal:
        raise ValueError(
            f"{value!r} is not a {kind}; legal: {', '.join(legal)}.{nearest(value, legal)}"
        )
    return str(value)


def choice(kind: str, legal: Iterable[str], metavar: str) -> Value:
    return Value(lambda value: one_of(value, kind, legal), ", ".join(legal), metavar)


def listed(values: Any, kind: str, legal: str) -> list[Any]:
    """Return names from a list, or from a text with commas between them."""
    if not isinstance(values, (str, tuple, list, set, frozenset)):
        raise ValueError(f"{values!r} is not a list of {kind}s; legal: {legal}.")
    names = [
        name
        for value in ((values,) if isinstance(values, str) else values)
        for name in (value.split(",") if isinstance(value, str) else [value])
        if name != ""
    ]
    if not names:
        raise ValueError(f"no {kind} given; legal: {legal}.")
    return names


def target_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return known target names; none for ``none`` alone."""
    known = known_names.targets()
    names = listed(values, "target", ", ".join(known))
    if names == ["none"]:
        return ()
    return tuple(dict.fromkeys(one_of(name, "target", known) for name in names))


def device_names(
    values: Iterable[str], legal: str = LEGAL_DEVICES, also: str = ""
) -> tuple[str, ...]:
    """Return ``cpu``, ``cuda`` or ``cuda:N``, at least one; ``also``: a pattern, as ``|cpp``."""
    names = listed(values, "device", legal)
    for name in names:
        if not re.fullmatch(rf"cpu|cuda(:\d+)?{also}", str(name)) and not (also and is_path(name)):
            written = str(name).lower().replace("gpu", "cuda").replace("c++", CPP)
            meant = nearest(written, ("cpu", "cuda", *([CPP] if CPP in legal else [])))
            raise ValueError(f"{name!r} is not a device; legal: {legal}.{meant}")
    return tuple(dict.fromkeys(names))


def is_path(name: Any) -> bool:
    """Return True for a place that is an interpreter, by its path."""
    return "/" in str(name) or os.sep in str(name) or Path(str(name)).is_file()


def module_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return dotted names of modules, also of several in a text with commas."""
    names = tuple(name for value in values for name in value.split(","))
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a module.")
    return names


def functions(value: Any) -> tuple[Any, ...]:
    """Return functions, or their names, ``package.module:function``, from one or a list of them."""
    given = value if isinstance(value, (list, tuple)) else (value,)
    named = (each.split(",") if isinstance(each, str) else [each] for each in given)
    every = tuple(itertools.chain.from_iterable(named))
    for each in every:
        if not callable(each) and not re.fullmatch(r"[\w.]+:[\w.]+", str(each)):
            raise ValueError(f"{each!r} is neither a function nor 'package.module:function'.")
    return every


def number(is_legal: Callable[[float], bool], legal: str, metavar: str) -> Value:
    """Return the Value of a number, given as such or as text. NaN is none."""

    def checked(value: Any) -> float:
        try:
            given = float(str(value))
        except ValueError:
            given = math.nan
        if not is_legal(given):
            raise ValueError
        return given

    return Value(checked, legal, metavar)


def whole_number(value: Any, most: float = math.inf) -> int:
    """Return an int of at least 1, given as an int or as text."""
    if not re.fullmatch("[1-9][0-9]*", str(value)) or int(value) > most:
        upto = f" and at most {most}" if most < math.inf else ""
        raise ValueError(f"{value!r} is not a whole number of at least 1{upto}.")
    return int(value)


def text(value: Any) -> str:
    """Return a text without blanks at its ends; it may not be empty."""
    if not str(value).strip():
        raise ValueError("it is empty.")
    return str(value).strip()


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def shard_name(value: Any) -> str:
    """Return ``K/N``, with K from 1 to N."""
    match = re.fullmatch(r"(\d+)/(\d+)", str(value))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError
    return str(value)


def report_specs(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return pairs of format and path, from ``FORMAT:PATH``."""
    from pytest_torchexport.results.reports import formats

    pairs: list[tuple[str, str]] = []
    for value in values:
        form, _, path = value.partition(":")
        if form not in formats() or not path:
            raise ValueError(
                f"{value!r} is not FORMAT:PATH; legal formats: {', '.join(formats())} "
                f"(json:torchexport.json, or json:- to print it).{nearest(form, formats())}"
            )
        if any(path == other != "-" for _, other in pairs):
            raise ValueError(f"two reports have the path {path!r}.")
        pairs.append((form, path))
    return tuple(pairs)


TARGETS = Value(target_names, "target names, or 'none'", "NAMES")
DEVICES = Value(device_names, LEGAL_DEVICES, "NAMES")
PLACES = Value(
    lambda values: device_names(values, LEGAL_PLACES, rf"|{CPP}|\w+{PROVIDER}|{VERSIONS}"),
    LEGAL_PLACES,
    "NAMES",
)
MODE = choice("mode", ("eval", "train", "as-is", "sampling"), "MODE")
WHOLE_NUMBER = Value(whole_number, "a whole number of at least 1", "N")
FLAG = Value(truth, "true, false")
# ``none``, so that one run can do without what the ini file asks for.
DIRECTORY = Value(
    lambda value: "" if (path := text(value)) == "none" else path,
    "a path; none for none",
    "DIRECTORY",
)
