"""Remember what eager did with a call, for the test's other targets.

Eager is the same for every target of a test, so the next item need not run it again.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch

from pytest_torchexport.config.plan import Found
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call

# What is kept takes at most so many bytes.
MOST_BYTES = 2**26
# What a function did with a call: its result, and its warnings.
_Run = tuple[Any, list[warnings.WarningMessage]]


class Remembered:
    """Runs of eager: those of earlier items of a test, and those of this one.

    The n-th run of eager on a call is answered with the n-th of an earlier item: an item that runs
    a call twice, to see if both runs agree, is told of two runs. ``key_of`` returns what calls have
    in common if they are equal, and None if it cannot tell. ``bytes``: the size of the tensors in
    it. ``is_forgotten``: it is not to be kept.
    """

    def __init__(
        self, key_of: Callable[[Call], Hashable], earlier: Remembered | None = None
    ) -> None:
        self._key_of = key_of
        self._runs: dict[Hashable, tuple[_Run, ...]] = dict(earlier._runs) if earlier else {}
        self._asked: Counter[Hashable] = Counter()
        self.bytes: int = earlier.bytes if earlier else 0
        self.is_forgotten = False

    def forget(self) -> None:
        """Keep nothing of this item: what eager does depends on more than the call."""
        self.is_forgotten = True
        self._runs.clear()

    def run(self, what: Hashable, call: Call, function: Callable[[], Found]) -> Found:
        """Return what ``function`` does with the call, of an earlier item if that ran it.

        ``what`` names the function, and all that its result depends on besides the call. Warns of
        what the earlier run warned.
        """
        key = None if self.is_forgotten else self._key_of(call)
        if key is None:
            return function()
        number = self._asked[what, key]
        self._asked[what, key] += 1
        known = self._runs.get((what, key), ())
        if number < len(known):
            found, heard = known[number]
        else:
            with warnings.catch_warnings(record=True) as heard:
                found = function()
            if number == len(known):
                self._keep((what, key), (*known, (found, heard)), _size(found))
        for each in heard:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)
        result: Found = found
        return result

    def _keep(self, key: Hashable, runs: tuple[_Run, ...], size: int) -> None:
        if not self.is_forgotten and self.bytes + size <= MOST_BYTES:
            self._runs[key] = runs
            self.bytes += size


@runtime_checkable
class _HasTensors(Protocol):
    def tensors(self) -> Iterable[torch.Tensor]: ...


def _size(found: Any) -> int:
    """Return the bytes of the tensors of what a function did."""
    tensors = found.tensors() if isinstance(found, _HasTensors) else ()
    return sum(tensor.nbytes for tensor in tensors if is_plain(tensor))
