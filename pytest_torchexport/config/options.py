"""The marker's arguments: validated, merged marker by marker, frozen.

Imports no torch: an error that the marker alone shows stops the collection, before any model is
built. Errors that need the module's signature are found in ``inputs``.
"""

from __future__ import annotations

import dataclasses
import keyword
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_torchexport.config import names as known_names
from pytest_torchexport.config.named_dims import Shape, parse_shape, parse_sizes
from pytest_torchexport.config.validate import (
    MODE,
    device_names,
    functions,
    listed,
    nearest,
    one_of,
    target_names,
    whole_number,
)
from pytest_torchexport.results.failures import Failure, SpecError

# Of real inputs, so many are used unless the user gives another number.
MOST_INPUTS = 100
# Words in ``values``; ``inputs/domains.py`` has their numbers.
REGIONS = ("nan", "inf", "zero", "denormal", "limits", "edges")


def _mapping(value: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{value!r} is not a dict like {example}")
    return value


def _shapes(value: Any) -> Mapping[str, Shape | None]:
    items = _mapping(value, "{'x': 'batch 3 height width'}").items()
    return {path: _named(path, parse_shape, shape) for path, shape in items}


def _dims(value: Any) -> Mapping[str, range | tuple[int, ...]]:
    items = _mapping(value, "{'batch': (1, 16)}")
    for name in items:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} is not the name of a dim")
    return {name: parse_sizes(name, sizes) for name, sizes in items.items()}


def _named(path: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from None


def _values(value: Any) -> Mapping[str, Any]:
    items = _mapping(value, "{'x': (-1.0, 1.0)}").items()
    return {path: _named(path, _one_value, item) for path, item in items}


def _one_value(value: Any) -> Any:
    """Return a list, a strategy, or a tuple: of low and high, of words, or of both."""
    # A strategy exists only if Hypothesis is loaded: look without importing it.
    hypothesis = sys.modules.get("hypothesis.strategies")
    if hypothesis is not None and isinstance(value, hypothesis.SearchStrategy):
        return value
    if isinstance(value, list):
        if not value:
            raise ValueError("the list to choose from is empty")
        return list(value)
    given = (value,) if isinstance(value, str) else value
    parts = given if isinstance(given, tuple) else ()
    words = tuple(item for item in parts if isinstance(item, str))
    ends = parts[: len(parts) - len(words)]
    unknown = [word for word in words if word not in REGIONS]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in ends)
    if unknown or not numbers or len(ends) not in ((0, 2) if words else (2,)):
        raise ValueError(
            f"{value!r} is not (low, high), a list to choose from, a Hypothesis strategy, or words "
            f"for special values, alone or after low and high: {', '.join(REGIONS)}."
            + "".join(nearest(word.lower(), REGIONS) for word in unknown[:1])
        )
    if ends and not ends[0] <= ends[1]:
        raise ValueError(f"low {ends[0]} is not at most high {ends[1]}")
    return parts


def _function(value: Any) -> Any:
    if not callable(value):
        raise ValueError(f"{value!r} is not a function of forward's arguments by name")
    return value


def _reference(value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"{value!r:.80} is not a module, a function or an object to call")
    return value


def _steps(value: Any) -> tuple[str, ...]:
    names = tuple(listed(value, "step", "names of methods that reference and subject both have"))
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a method")
    return names


RELATIONS = ("rows alone", "rows permuted", "twice")


@dataclass(frozen=True)
class Padding:
    """The relation that more padding changes no output of what is not padding.

    ``mask``: the argument that says what is padding, by name or path. It holds 1 or True at what
    counts, or 0 or False with ``keeps=False``; or it is added to scores; or it holds lengths.
    ``dim``: the dim that is padded; that of the mask's last axis if empty.
    """

    mask: str
    dim: str = ""
    _: dataclasses.KW_ONLY
    keeps: bool = True

    def __str__(self) -> str:
        return f"padding by {self.mask}"


def _relations(value: Any) -> tuple[str | Padding, ...]:
    given = value if isinstance(value, (list, tuple)) else [value]
    if not given:
        raise ValueError("the list is empty")
    legal = (*RELATIONS, "Padding('mask')")
    return tuple(
        each if isinstance(each, Padding) else one_of(each, "relation", legal) for each in given
    )


@dataclass(frozen=True, eq=False)
class Inputs:
    """Real inputs: a path, a directory, a glob or an iterable, and how many are used at most."""

    source: Any
    most: int = MOST_INPUTS


def _inputs(value: Any) -> Inputs:
    source, most = value if isinstance(value, tuple) and len(value) == 2 else (value, MOST_INPUTS)
    # A tensor, an array or a dict could be iterated over too.
    single = isinstance(source, (Mapping, bytes, tuple)) or hasattr(source, "shape")
    several = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
    if single or not (several or isinstance(source, os.PathLike)):
        raise ValueError(
            f"{value!r:.80} is not a path, a directory, a glob, a list of calls, a Dataset or a "
            "DataLoader, or one of these with a number: (source, 500)"
        )
    return Inputs(source, whole_number(most))


def _checks(value: Any) -> tuple[str, ...]:
    known = known_names.checks()
    return tuple(one_of(name, "check", known) for name in listed(value, "check", ", ".join(known)))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not True or False")
    return value


def _tolerance(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a finite number of at least 0")
    return float(value)


def _export_options(value: Any) -> Mapping[str, Mapping[str, Any]]:
    items = _mapping(value, "{'onnx': {'opset_version': 20}}")
    for name, arguments in items.items():
        one_of(name, "target", known_names.targets())
        _named(name, partial(_options_of, name), arguments)
    return dict(items)


def _options_of(target: str, value: Any) -> None:
    """Raise ValueError for options that the target does not take, if it is known what it takes."""
    arguments = _mapping(value, "{'opset_version': 20}")
    legal = known_names.EXPORT_OPTIONS.get(target, tuple(arguments))
    for name in arguments:
        elsewhere = known_names.SAID_ELSEWHERE.get(target, {}).get(name)
        if elsewhere is not None:
            raise ValueError(f"{name!r} is not for export_options: {elsewhere}")
        one_of(name, "keyword argument of its exporter", legal)


def _xfail(value: Any) -> Mapping[str, tuple[type[Failure], str]]:
    known = known_names.targets()
    expected = {}
    for key, item in _mapping(value, "{'script': ExportRefused}").items():
        target, dash, device = key.partition("-")
        one_of(target, "target", known)
        if dash:
            device_names((device,))
        cls, reason = item if isinstance(item, tuple) and len(item) == 2 else (item, "")
        is_failure = isinstance(cls, type) and issubclass(cls, Failure)
        if not is_failure or not isinstance(reason, str):
            names = ", ".join(sub.__name__ for sub in Failure.__subclasses__())
            raise ValueError(
                f"{key!r}: {item!r} is not a failure class or (class, reason); legal: {names}."
            )
        expected[key] = cls, reason
    return expected


def _option(read: Callable[[Any], Any]) -> Any:
    """Return a field. ``read`` takes what the user gave; it raises ValueError if that is wrong."""
    return dataclasses.field(default=None, metadata={"read": read})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of the marker, ``using`` and ``check_export``; None: not given."""

    targets: tuple[str, ...] | None = _option(target_names)
    shapes: Mapping[str, Shape | None] | None = _option(_shapes)
    dims: Mapping[str, range | tuple[int, ...]] | None = _option(_dims)
    dynamic_shapes: Any = _option(lambda value: value)  # noqa: RUF009  # a field
    values: Mapping[str, Any] | None = _option(_values)
    map: Callable[..., Any] | None = _option(_function)  # noqa: RUF009  # a field
    filter: Callable[..., Any] | None = _option(_function)  # noqa: RUF009  # a field
    inputs: Inputs | None = _option(_inputs)  # noqa: RUF009  # a field
    devices: tuple[str, ...] | None = _option(device_names)
    checks: tuple[str, ...] | None = _option(_checks)
    rtol: float | None = _option(_tolerance)
    atol: float | None = _option(_tolerance)
    max_examples: int | None = _option(whole_number)
    mode: str | None = _option(MODE.check)
    export_options: Mapping[str, Mapping[str, Any]] | None = _option(_export_options)
    reference: Callable[..., Any] | None = _option(_reference)  # noqa: RUF009  # a field
    steps: tuple[str, ...] | None = _option(_steps)
    relations: tuple[str | Padding, ...] | None = _option(_relations)
    stand_in: bool | None = _option(_switch)
    after_export: tuple[Any, ...] | None = _option(functions)
    xfail: Mapping[str, tuple[type[Failure], str]] | None = _option(_xfail)

    def over(self, outer: Options) -> Options:
        """Return these options, completed by the outer ones. Dicts replace, they do not merge."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if "shapes" in given or "dims" in given:
            outer = dataclasses.replace(outer, dynamic_shapes=None)
        if "dynamic_shapes" in given:
            outer = dataclasses.replace(outer, shapes=None, dims=None)
        return dataclasses.replace(outer, **given)


_READ = {field.name: field.metadata["read"] for field in dataclasses.fields(Options)}
NAMES = tuple(name for name in _READ if name != "targets")


def parse_options(targets: tuple[Any, ...], arguments: Mapping[str, Any]) -> Options:
    """Return the arguments, checked. Raises SpecError that names argument and legal values."""
    for name in arguments:
        if name in ("target", "targets"):
            raise SpecError(
                f"unknown argument {name!r}: targets have no name, and come first, as in "
                "torchexport('export', 'onnx')"
            )
        if name not in NAMES:
            raise SpecError(
                f"unknown argument {name!r}; legal: {', '.join(NAMES)}.{nearest(name, NAMES)}"
            )
    values: dict[str, Any] = {}
    for name, value in {"targets": targets or None, **arguments}.items():
        try:
            values[name] = None if value is None else _READ[name](value)
        except ValueError as error:
            raise SpecError(f"{name}: {error}") from None
        except TypeError:
            raise SpecError(f"{name}: {value!r:.80} is of a type it does not take") from None
    options = Options(**values)
    _check_together(options)
    return options


def _check_together(options: Options) -> None:
    if (options.rtol is None) != (options.atol is None):
        raise SpecError("rtol and atol: give both or neither, as in torch.testing.assert_close")
    if options.dynamic_shapes is not None and (options.shapes or options.dims):
        raise SpecError("dynamic_shapes: give it instead of shapes and dims, not beside them")
    if options.steps and options.reference is None:
        raise SpecError("steps: names the steps of reference=..., which is not given")
    if options.shapes and options.dims:
        used = {
            n for shape in options.shapes.values() if shape for axis in shape for n in axis.names
        }
        for name in options.dims:
            if name not in used:
                raise SpecError(
                    f"dims: {name!r} occurs in no shape; dims in shapes: "
                    f"{', '.join(sorted(used)) or 'none'}.{nearest(name, used)}"
                )


# What these do is done to a test, and not in a check of its own.
OF_THE_MARKER = {
    "devices": "decides which items a test has",
    "stand_in": "runs the body of a test again, of one that does not request the fixture",
    "xfail": "decides which items a test has",
}


def parse_check_options(arguments: Mapping[str, Any]) -> Options:
    """Return the options of one check. Raises SpecError for options that decide on items too."""
    for name, what in OF_THE_MARKER.items():
        if name in arguments:
            raise SpecError(f"{name}: {what}; give it to the marker")
    return parse_options((), arguments)
