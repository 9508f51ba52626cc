"""Collect the twins of a subject's functions, and put them in place for a block.

The code of a function is exchanged and the function object stays, so that bound, decorated and
imported references run the twin too.
"""

from __future__ import annotations

import threading
import types
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from pytest_torchexport.explore.callgraph import files_of, functions_of, owner_of
from pytest_torchexport.explore.conditions import Condition
from pytest_torchexport.explore.recorder import ConditionRecorder
from pytest_torchexport.explore.twins import constants_in, twins_of, with_recorder
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import compiling_nothing, suppress_output
from pytest_torchexport.results.source_line import is_users

# The code of a function belongs to the process: a second thread would take a twin for the original.
_ONE_AT_A_TIME = threading.RLock()


class InstrumentedCode:
    """The functions that may run under a subject's forward, with their twins.

    ``unread`` names the functions that have conditions but no source. ``complete`` is False if
    there were too many functions to find them all.
    """

    def __init__(
        self, subject: Subject, packages: tuple[str, ...], recorder: ConditionRecorder
    ) -> None:
        owns = owner_of(subject, packages)
        functions, self.complete = functions_of(subject, owns)
        self._model_files = files_of(subject)
        self._recorder = recorder
        by_file: dict[str, set[types.CodeType]] = {}
        for function in functions:
            by_file.setdefault(function.__code__.co_filename, set()).add(function.__code__)
        # Codes of two files may be equal, so that the file is part of the key.
        twins: dict[tuple[str, types.CodeType], types.CodeType] = {}
        unread: list[str] = []
        for file, codes in by_file.items():
            found = twins_of(file, frozenset(codes))
            recorder.conditions |= found.conditions
            for code, twin in found.twins.items():
                twins[file, code] = with_recorder(twin, recorder)
            unread += [code.co_qualname for code in found.unread]
            recorder.coarse.update(found.unread)
        self.unread = tuple(dict.fromkeys(unread))
        pairs = [(f, twins.get((f.__code__.co_filename, f.__code__))) for f in functions]
        self._twins = [(function, twin) for function, twin in pairs if twin is not None]

    @property
    def constants(self) -> Iterator[Any]:
        """Yield the constants in the functions that have a twin."""
        for function, _ in self._twins:
            yield from constants_in(function.__code__)

    def is_of_model(self, condition: Condition) -> bool:
        """Return True if a condition is in the user's code or in a file of the model's classes."""
        return is_users(condition.file) or condition.file in self._model_files

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the twins in place for the duration of the block; warnings and output are suppressed.

        Blocks may be nested. Another thread waits until the outermost block has ended.
        """
        with ExitStack() as stack:
            stack.enter_context(_ONE_AT_A_TIME)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(suppress_output())
            stack.enter_context(compiling_nothing())
            for function, twin in self._twins:
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = twin
            stack.callback(register_module_forward_pre_hook(self._recorder.enter).remove)
            leave = register_module_forward_hook(self._recorder.leave, always_call=True)
            stack.callback(leave.remove)
            yield
