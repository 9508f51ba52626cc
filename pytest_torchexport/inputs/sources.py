"""Real inputs: calls read from files or from an iterable, in the form of the example's call.

A file holds one call: tensors by the names of forward's parameters, or in their order. No pickle is
ever loaded: a file of data must not run code.
"""

from __future__ import annotations

import glob
import inspect
import itertools
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pytest_torchexport.config.options import Inputs
from pytest_torchexport.inputs.pytrees import (
    Call,
    copy_tensor,
    describe,
    flatten,
    is_plain,
    kind_of,
    tree_map,
)
from pytest_torchexport.inputs.spec import flatten_call, parameters_of
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import SpecError, ends_the_test

# More bytes of inputs are not held at once.
MOST_BYTES = 2**30
# The name of an array that was saved without one.
_UNNAMED = re.compile(r"arr_(\d+)")
_END = object()

Item = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class RealInputs:
    """Calls, each with its ``origin``, and sentences on what was left out of them.

    ``notes`` are for the details of a verdict; ``cautions`` a pass is shown with.
    """

    calls: tuple[Call, ...] = ()
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def read(
    inputs: Inputs, example: Call, signature: inspect.Signature | None, name: str, root: Path
) -> RealInputs:
    """Return the real inputs of a subject, of which some may have another form than the example.

    Without arguments in the example, the first input takes its place. ``name``: that of the
    subject's class; ``root``: what paths are relative to. Raises SpecError if there is no input, or
    none that forward takes.
    """
    items, notes = _items(inputs, name, root)
    if not items:
        raise SpecError(
            "inputs: gives no call; an iterator can be read only once: give a list, a Dataset or a "
            "DataLoader"
        )
    if not example.leaves():
        first = _first(items[0][1], signature)
        example = Call(_of_tensors(first.args), _of_tensors(first.kwargs))
    form = _Form(example, signature)
    calls, left_out = [], dict[str, list[str]]()
    for origin, value in items:
        made = form.call(origin, value)
        if isinstance(made, Call):
            calls.append(made)
        else:
            left_out.setdefault(made, []).append(origin)
    told = [
        f"{len(those)} of {len(items)} left out: {why} ({few(those)})"
        for why, those in left_out.items()
    ]
    if not calls:
        raise SpecError("; ".join(["inputs: none fits the call of the example", *told]))
    forgotten = [name for name in form.passed_over if name in form.parameters]
    others = [name for name in form.passed_over if name not in form.parameters]
    if forgotten:
        told.append(f"{', '.join(forgotten)}: not passed, as in the call of the example")
    if others:
        notes = [*notes, f"inputs: {', '.join(others)}: no argument of forward, left out"]
    return RealInputs(
        calls=tuple(calls),
        notes=tuple(notes),
        cautions=tuple(f"inputs: {text}" for text in told),
    )


# -- the calls of a source -------------------------------------------------------------------------

Read = tuple[list[Item], list[str]]
# The items that were read last: the next reader is mostly the same test on another target.
_last: list[tuple[Inputs, str, Read]] = []
# Those of iterators, which can be read only once: for other modules and targets of a test.
_once: WeakKeyDictionary[Inputs, Read] = WeakKeyDictionary()


def _items(inputs: Inputs, name: str, root: Path) -> tuple[list[Item], list[str]]:
    """Return the inputs with their names, and sentences on those that were not read."""
    if inputs in _once:
        return _once[inputs]
    for known, of_class, read in _last:
        if known is inputs and of_class == name:
            return read
    _last.clear()
    most, source = inputs.most, inputs.source
    left = f"inputs: the first {most} of "
    notes: list[str] = []
    if isinstance(source, (str, os.PathLike)):
        try:
            paths = _files(os.fspath(source), name, root)
        except OSError as error:  # a name that is too long, a directory that may not be searched
            raise SpecError(f"inputs: {error!s:.200}") from None
        each: Iterator[Item] = ((short(path, root), _loaded(path, root)) for path in paths[:most])
        notes += [f"{left}{len(paths)} files"] * (len(paths) > most)
        more: Iterator[Any] = iter(())
    else:
        more = _elements(source)
        each = ((f"inputs[{i}]", value) for i, value in enumerate(itertools.islice(more, most)))
    items: list[Item] = []
    held = 0
    for origin, value in each:
        item = tree_map(_tensor, value)
        tensors = filter(is_plain, (leaf for _, leaf in flatten(item)[0]))
        held += sum(tensor.nbytes for tensor in tensors)
        if held > MOST_BYTES and items:
            notes.append(f"inputs: the first {len(items)}, which are {MOST_BYTES >> 20} MiB")
            break
        items.append((origin, item))
    else:
        notes += [f"{left}more"] * (next(more, _END) is not _END)
    if isinstance(source, Iterator):
        _once[inputs] = items, notes
    _last.append((inputs, name, (items, notes)))
    return items, notes


def _elements(source: Any) -> Iterator[Any]:
    """Yield the elements of an iterable or a Dataset. Raises SpecError for what it raises."""
    number = 0
    try:
        # A Dataset that has no end of its own counts its elements.
        indices = () if hasattr(source, "__iter__") else range(len(source))
        for value in map(source.__getitem__, indices) if indices else source:
            yield value
            number += 1
    except Exception as error:
        if ends_the_test(error):
            raise
        raise SpecError(
            f"inputs: reading number {number} raised {type(error).__name__}: {error}"
        ) from error


def _tensor(leaf: Any) -> Any:
    """Return a copy of a tensor, on the CPU, and a number as Python's.

    A source may fill one tensor again and again.
    """
    if isinstance(leaf, torch.Tensor):
        return copy_tensor(leaf.detach()).cpu()
    return leaf.item() if isinstance(leaf, np.generic) else leaf


# -- files -----------------------------------------------------------------------------------------


def _npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".pt": _pt,
}
LEGAL = ", ".join(_READERS)


def _loaded(path: Path, root: Path) -> Any:
    named = f"inputs: {short(path, root)}"
    try:
        return _READERS[path.suffix](path)
    except ImportError as error:
        raise SpecError(f"{named}: {error}; pip install safetensors") from None
    except Exception as error:  # of three libraries, and of damaged data
        if ends_the_test(error):
            raise
        text = " ".join(str(error).split())
        if isinstance(error, pickle.UnpicklingError) or "pickle" in text:
            written = (
                "np.savez(path, x=x)" if path.suffix == ".npz" else "torch.save({'x': x}, path)"
            )
            raise SpecError(
                f"{named}: holds Python objects, or is damaged. Only tensors are loaded, "
                f"because a pickle can run code: {written}"
            ) from None
        raise SpecError(f"{named}: cannot be read: {text:.200}") from None


def _files(source: str, name: str, root: Path) -> list[Path]:
    """Return the files that a path, a directory or a glob stands for. Raises SpecError."""
    place = root / source
    if place.is_dir():
        if (place / name).is_dir():
            place /= name
        inside = sorted(place.iterdir())
        found = [path for path in inside if path.suffix in _READERS]
        if not found:
            holds = f"holds {few([path.name for path in inside])}" if inside else "is empty"
            raise SpecError(
                f"inputs: the directory {source!r} {holds}; legal: files of {LEGAL}, or a folder "
                f"{name} of these"
            )
        return found
    # Not by Path.glob, which takes no absolute pattern.
    below = [source] if place.is_file() else glob.glob(source, root_dir=root, recursive=True)  # noqa: PTH207
    matches = sorted(root / each for each in below if (root / each).is_file())
    if not matches:
        raise SpecError(f"inputs: no file matches {source!r} below {root}")
    for path in matches:
        if path.suffix not in _READERS:
            raise SpecError(
                f"inputs: {short(path, root)}: legal: files of {LEGAL}; a pickle is never loaded, "
                "because it can run code"
            )
    return matches


def short(path: Path, root: Path) -> str:
    """Return a path as ``inputs=`` takes it: relative to the root if it is below."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


# -- the form of a call ----------------------------------------------------------------------------


def _first(value: Any, signature: inspect.Signature | None) -> Call:
    """Return the call of an input, as long as there is no example: what forward needs of it."""
    if isinstance(value, Call):
        return value
    items = signature.parameters.items() if signature is not None else ()
    if isinstance(value, Mapping) and not _is_unnamed(value):
        return Call((), {name: value[name] for name, _ in items if name in value})
    parts = list(_in_order(value))
    if isinstance(value, (tuple, list)) or _is_unnamed(value):
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [p for _, p in items if p.default is p.empty and p.kind in kinds]
        star = any(item.kind is item.VAR_POSITIONAL for _, item in items)
        parts = parts if star or signature is None else parts[: len(needed)]
    return Call(tuple(parts))


def _of_tensors(value: Any) -> Any:
    """Return the first input as the arguments of a module, which takes tensors and no arrays."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {name: _of_tensors(part) for name, part in value.items()}
    return type(value)(map(_of_tensors, value)) if type(value) in (tuple, list) else value


def _is_unnamed(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_UNNAMED.fullmatch(str(key)) for key in value)


def _in_order(value: Any) -> Iterable[Any]:
    """Return the parts of an input that has no names: of a single tensor, itself."""
    if isinstance(value, Mapping):
        return (value[name] for name in sorted(value, key=lambda name: int(str(name)[4:])))
    return value if isinstance(value, (tuple, list)) else (value,)


class _Form:
    """The form of the example's call, in which all inputs are made.

    ``passed_over``: the names of what the inputs have and this call has not.
    """

    def __init__(self, example: Call, signature: inspect.Signature | None) -> None:
        self.parameters, self._variadic = parameters_of(signature, example)
        self.passed_over: dict[str, None] = {}
        leaves, self._structure = flatten_call(example, self.parameters, self._variadic)
        self._wanted = dict(leaves)

    def call(self, origin: str, value: Any) -> Call | str:
        """Return an input in this form, or why it does not fit."""
        found: dict[str, Any] = {}
        for parts in self._readings(value):
            found = {
                path: leaf for name, part in parts.items() for path, leaf in flatten(part, name)[0]
            }
            if found.keys() & self._wanted.keys():
                break
        leaves = []
        for path, wanted in self._wanted.items():
            if path not in found and isinstance(wanted, torch.Tensor):
                named = self._named(value).items()
                known = [leaf for name, part in named for leaf, _ in flatten(part, name)[0]]
                return f"has no {path}; it has {', '.join(known) or 'nothing'}"
            leaf = found.get(path, wanted)
            if misfit := _misfit(path, leaf, wanted):
                return misfit
            leaves.append(leaf if isinstance(wanted, torch.Tensor) else wanted)
        self.passed_over.update(dict.fromkeys(sorted(found.keys() - self._wanted.keys())))
        args, kwargs = self._structure.unflatten(leaves)
        return Call(args, kwargs, origin)

    def _readings(self, value: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the readings of an input: parts by name, and one value of the first parameter."""
        named = self._named(value)
        if named:
            yield named
        yield {next(iter(self._wanted)).partition("[")[0].partition(".")[0]: value}

    def _named(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Call):
            return dict(flatten_call(value, self.parameters, self._variadic)[0])
        if isinstance(value, Mapping) and not _is_unnamed(value):
            return {str(name): part for name, part in value.items()}
        parts = list(_in_order(value))
        more = range(len(parts) - len(self.parameters))
        named = (f"{self._variadic}[{i}]" for i in more)
        places = (
            name if name in self._wanted else f"part {len(parts) - len(more) + i}"
            for i, name in enumerate(named, start=1)
        )
        return dict(zip((*self.parameters, *places), parts, strict=False))


def _misfit(path: str, leaf: Any, wanted: Any) -> str:
    """Return in what a leaf is of another kind than the example's; nothing if it is not."""
    if not isinstance(wanted, torch.Tensor):
        value = leaf.item() if isinstance(leaf, torch.Tensor) and leaf.numel() == 1 else leaf
        same = value is wanted or (type(value) is type(wanted) and value == wanted)
        return "" if same else f"{path} is {describe(value)}, in the example {describe(wanted)}"
    if isinstance(leaf, torch.Tensor):
        if kind_of(leaf) == kind_of(wanted):
            return ""
        batch = leaf.dim() == wanted.dim() - 1
        hint = " (for a batch, give a DataLoader)" * batch
        return f"{path} is {_kind(leaf)}, in the example {_kind(wanted)}{hint}"
    given = f"an array of {leaf.dtype}" if isinstance(leaf, np.ndarray) else describe(leaf)
    return f"{path} is {given}, in the example {_kind(wanted)}"


def _kind(tensor: torch.Tensor) -> str:
    axes = f"{tensor.dim()} ax{'i' if tensor.dim() == 1 else 'e'}s"
    layout = "" if tensor.layout == torch.strided else f"{tensor.layout} ".removeprefix("torch.")
    return f"{layout}{str(tensor.dtype).removeprefix('torch.')} of {axes}"
