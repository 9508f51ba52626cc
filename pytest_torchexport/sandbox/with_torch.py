"""A child that answers with torch: eager's own way of observing a call, on what was loaded."""

from __future__ import annotations

import copy
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.outcomes.observe import Raised, Returned, State, observe, tensors_of
from pytest_torchexport.outcomes.torch_state import torch_globals
from pytest_torchexport.sandbox import child, guard, tensors


class WithTorch:
    """One artifact of a target that loads with torch."""

    codec = tensors.CODEC

    def __init__(self) -> None:
        self._settings = ExitStack()  # never left: they hold for as long as the process lives

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load it, and say what its target finds in it."""
        self._device = message["device"]
        self._settings.enter_context(torch_globals(self._device))
        target, confined = child.opened(message)
        path = Path(message["path"])
        if not message["trusted"]:
            _refuse_entries(path)
        self._pristine = self._loaded = _told(lambda: target.load(path, self._device))
        self._fresh = message["fresh"]
        self._state = State(_module(self._loaded), thorough=message["thorough"])
        found = target.traits.read(path, self._loaded).as_plain()
        return {"found": {**found, "pickled": guard.named_by_pickles()}, "confined": confined}

    def look(self, message: dict[str, Any]) -> dict[str, Any]:
        """Its parameters and buffers as they were loaded."""
        self._state.restore()
        return {"state": tensors_of(_module(self._pristine))}

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """One call, from how it was loaded where ``anew``, else from where the call before ended."""
        if message["anew"]:
            self._state.restore()
            self._loaded = copy.deepcopy(self._pristine) if self._fresh else self._pristine
        call = Call(message["args"], message["kwargs"])
        call = _as_it_was(call, zip(message["layouts"], message["gradients"], strict=True))
        call = call.to(self._device)
        outcome = observe(self._loaded, call, seed=message["seed"])
        state = tensors_of(_module(self._loaded)) if message["state"] else {}
        if isinstance(outcome, Raised):
            line = outcome.where
            where = [line.file, line.line, line.text] if line is not None else None
            return {"raised": [outcome.type, outcome.message, where], "state": state}
        assert isinstance(outcome, Returned)  # nobody limits its time here but who asked
        left = outcome.inputs
        written = any(tensor._version for tensor in left.tensors())
        inputs = {"inputs": [list(left.args), dict(left.kwargs)]} if written else {}
        return {"returned": outcome.value, "state": state, **inputs}


def _refuse_entries(path: Path) -> None:
    """Raise PermissionError for what no program of torch's needs, and who unpacks the archive is attacked with."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return  # torch says what it is
    for name in names:
        where = PurePosixPath(name.replace("\\", "/"))
        if where.is_absolute() or ".." in where.parts:
            raise PermissionError(
                f"the archive has an entry that is to be unpacked outside of it: {name!r:.100}"
            )
        if "aotinductor" in where.parts:
            raise PermissionError(
                f"the archive holds a compiled library, which would run unseen: {name!r:.100}; save the exported "
                "program alone"
            )


def _told(load: Callable[[], Any]) -> Any:
    """What loading gives; or why it failed, which torch.export.load logs, to raise something else: it goes on with
    an older format then.
    """
    reasons = _Reasons()
    logger = logging.getLogger(torch.export.__name__)
    logger.addFilter(reasons)
    try:
        return load()
    except Exception as error:
        raise _root([*reasons.errors, error][0]) from None
    finally:
        logger.removeFilter(reasons)


def _root(error: BaseException) -> BaseException:
    """What an exception goes back to: torch wraps its own, text and traceback, in others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _Reasons(logging.Filter):
    """Keeps the exceptions that were logged, and has them not printed: they are raised."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info is None or record.exc_info[1] is None:
            return True
        self.errors.append(record.exc_info[1])
        return False


def _as_it_was(call: Call, traits: Iterator[tuple[Sequence[int] | None, bool]]) -> Call:
    """The call as whoever made it had its tensors: where they lay in memory, and whether they wanted gradients. Some
    programs ask.
    """

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        strides, gradient = next(traits)
        tensor = leaf if strides is None else tensors.laid_out(leaf, strides)
        return tensor.requires_grad_() if gradient else tensor

    return Call(tree_map(own, call.args), tree_map(own, dict(call.kwargs)))


def _module(loaded: Any) -> torch.nn.Module | None:
    """What holds state that calls may change."""
    holder = loaded if isinstance(loaded, torch.nn.Module) else getattr(loaded, "module", None)
    return holder if isinstance(holder, torch.nn.Module) else None


ANSWERS = WithTorch()
