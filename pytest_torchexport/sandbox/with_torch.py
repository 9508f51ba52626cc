"""Answers of a child with torch: a loaded artifact is observed exactly as eager is."""

from __future__ import annotations

import copy
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call, is_plain, tree_map
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.errors import chain
from pytest_torchexport.outcomes.observe import (
    LARGE_TENSOR,
    Raised,
    Returned,
    State,
    Tensors,
    kept_copy,
    named_tensors,
    observe,
    tensors_of,
)
from pytest_torchexport.outcomes.torch_state import GradMode, torch_globals
from pytest_torchexport.sandbox import child, tensors
from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.torch_private.memory import times_written
from pytest_torchexport.torch_private.structures import names_in_tensors


class Answers(child.Answers):
    codec = tensors.CODEC

    def __init__(self) -> None:
        self._settings = ExitStack()  # never left: the settings hold for the life of the process

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        self._device = message["device"]
        # Now, while the driver may still open what it needs.
        cuda.initialize(self._device)
        if THREADS.allowed > 1:
            torch.set_num_threads(THREADS.allowed)
        else:
            self._settings.enter_context(torch_globals(self._device))
        (load, read), confined, pickled = child.guarded(
            message, message["load"], message["read"], admitted=names_in_tensors()
        )
        path = Path(message["path"])
        if not message["trusted"]:
            _refuse_entries(path)
        self._pristine = self._loaded = _loaded(
            lambda: load(path, self._device, **child.taken(load, message["options"]))
        )
        self._fresh = message["fresh"]
        # How often each tensor had been written to when the calls began.
        self._versions: dict[str, int | None] = {}
        self._grad_mode = GradMode.GRAD if message["gradients"] else GradMode.NO_GRAD
        self._state = State(_module(self._loaded), thorough=message["thorough"])
        found = read(path, self._loaded).as_plain(foreign=not message["trusted"])
        return {"found": {**found, "pickled": pickled}, "confined": confined}

    def state(self, message: dict[str, Any]) -> dict[str, Any]:
        self._state.restore()
        return {"state": tensors_of(_module(self._pristine))}

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """Make one call, from the loaded state if ``anew``, else from where the last call ended."""
        if message["anew"]:
            self._state.restore()
            self._loaded = copy.deepcopy(self._pristine) if self._fresh else self._pristine
            own = not isinstance(self._loaded, torch.nn.Module)  # which has methods of the user's
            if own and hasattr(self._loaded, "fresh"):
                self._loaded = self._loaded.fresh()
            if message["state"]:
                self._versions = {name: times_written(each) for name, each in self._tensors()}
        call = Call(message["args"], message["kwargs"])
        call = _with_traits(call, iter(message["traits"])).to(self._device)
        try:
            outcome = observe(self._loaded, call, seed=message["seed"], grad_mode=self._grad_mode)
        except cuda.ContextLost as error:
            return {"crashed": f"it made CUDA unusable for its process: {error}"}
        after = {"state": self._after() if message["state"] else {}}
        if isinstance(outcome, Raised):
            line = outcome.where
            where = [line.file, line.line, line.text] if line is not None else None
            return {"raised": [outcome.type, outcome.message, where], **after}
        assert isinstance(outcome, Returned)  # the test session limits the time, not this process
        left = outcome.inputs
        written = any(times_written(tensor) for tensor in left.tensors())
        inputs = {"inputs": [list(left.args), dict(left.kwargs)]} if written else {}
        there = [tensor.device.type != "cpu" for tensor in Call((outcome.value,)).tensors()]
        placed = {} if self._device == "cpu" else {"there": there}
        return {"returned": outcome.value, **after, **placed, **inputs}

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return named_tensors(_module(self._loaded))

    def _after(self) -> Tensors:
        """Return the tensors, without large parameters that no call has written to."""
        return {
            name: kept_copy(tensor)
            for name, tensor in self._tensors()
            if not (name.startswith("parameter") and is_plain(tensor))
            or tensor.nbytes <= LARGE_TENSOR
            or times_written(tensor) != self._versions.get(name)
        }


def _refuse_entries(path: Path) -> None:
    """Raise PermissionError for entries that are no part of a program and dangerous to unpack."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return  # loading raises torch's own error
    for name in names:
        where = PurePosixPath(name.replace("\\", "/"))
        if where.is_absolute() or ".." in where.parts:
            raise PermissionError(
                f"the archive has an entry that is to be unpacked outside of it: {name!r:.100}"
            )
        if "aotinductor" in where.parts:
            raise PermissionError(
                f"the archive holds a compiled library, which would run unseen: {name!r:.100}; "
                "save the exported program alone"
            )


def _loaded(load: Callable[[], Any]) -> Any:
    """Return the loaded file, or raise the first error on the way to its failure.

    torch.export.load logs that error, tries an older format, and raises what is wrong there.
    """
    reasons = _Reasons()
    logger = logging.getLogger(torch.export.__name__)
    logger.addFilter(reasons)
    try:
        return load()
    except Exception as error:
        # torch wraps errors in others.
        *_, root = chain([*reasons.errors, error][0], explicit=True)
        raise root from None
    finally:
        logger.removeFilter(reasons)


class _Reasons(logging.Filter):
    """Keeps logged exceptions instead of printing them: they are raised."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        # torch 2.9 gives the exception as an argument of the message.
        arguments = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
        said = [*(record.exc_info or ()), *arguments]
        errors = [each for each in said if isinstance(each, BaseException)]
        self.errors += errors
        return not errors


def _with_traits(call: Call, traits: Iterator[tensors.Traits]) -> Call:
    """Return the call with its tensors' original strides and ``requires_grad``.

    Some programs read these. A tensor that was given twice is one tensor, which they may write to.
    """
    made: list[torch.Tensor] = []

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        strides, gradient, first = next(traits)
        if first < len(made):
            made.append(made[first])
            return made[first]
        tensor = leaf if strides is None else tensors.laid_out(leaf, strides)
        made.append(tensor.requires_grad_() if gradient else tensor)
        return made[-1]

    return Call(tree_map(own, call.args), tree_map(own, dict(call.kwargs)))


def _module(loaded: Any) -> torch.nn.Module | None:
    """Return the module whose state calls may change, or None."""
    holder = loaded if isinstance(loaded, torch.nn.Module) else getattr(loaded, "module", None)
    return holder if isinstance(holder, torch.nn.Module) else None
