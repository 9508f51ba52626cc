"""Devices that became constants of a program, and what they do after the program was moved.

In eager ``torch.zeros(3, device=x.device)`` follows its input; a trace or an exported program has
the example's device as a constant. That is read from the program, because the other device is often
not there to try. Each format lists its program as ``Operation``s; the rules are here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_torchexport.outcomes.operator_table import Row, row_of
from pytest_torchexport.results.source_line import SourceLine

# What a constant device does in a program that was moved, the worst first. A tensor of no
# dimensions and an index may stay on the CPU: they do nothing.
RAISES = "raises"  # a tensor on that device meets one that was moved
RETURNED = "returned"  # a tensor is returned on another device than the inputs'
UNKNOWN = "unknown"  # the program does not say what the tensor meets
NOTHING = "nothing"
EFFECTS = (RAISES, RETURNED, UNKNOWN, NOTHING)

# torch's messages when tensors on different devices meet.
_MESSAGES = (
    "is not on the expected device",
    "Expected all tensors to be on the same device",
    "tensors are not at the same device",
    "found two different devices",
    "Tensor device mismatch!",
)


def indexed(device: str) -> str:
    """Return the device with its index: ``cuda`` is ``cuda:0``."""
    kind, _, index = device.partition(":")
    return f"{kind}:{index or 0}"


@dataclass(frozen=True, kw_only=True)
class BakedDevice:
    """A device that is a constant of a program.

    ``op`` is the operation that makes or moves a tensor there, ``where`` the user's line of it, and
    ``effect`` one of ``EFFECTS``.
    """

    device: str
    op: str
    where: SourceLine | None
    effect: str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a program, in any format.

    ``inputs`` are the tensors that have to be on one device; ``outputs`` those that it makes, each
    with its number of dimensions if known. ``device`` is the constant that it takes; an ``opaque``
    operation has a body that is not looked into. A program ends in an operation ``return``.
    """

    op: str
    where: SourceLine | None
    inputs: tuple[Hashable, ...]
    outputs: tuple[tuple[Hashable, int | None], ...]
    device: str | None = None
    opaque: bool = False


def baked_devices(
    operations: Iterable[Operation], moved: dict[Hashable, int | None]
) -> tuple[BakedDevice, ...]:
    """Return the constants among a program's operations, with their effects.

    ``moved`` are the tensors that move with the program, each with its number of dimensions.
    """
    sides = _Sides(moved=moved)
    for step in operations:
        sides.follow(step)
    found = [
        BakedDevice(
            device=str(step.device),
            op=step.op,
            where=step.where,
            effect=sides.effect(number),
        )
        for number, step in enumerate(sides.found)
    ]
    return tuple(dict.fromkeys(found))


def _row(op: str) -> Row:
    """Return what is known of ``aten::index_put_``."""
    return row_of(op.removeprefix("aten::").removesuffix("_"))


def must_be_together(op: str, arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments of an operation that have to be on one device."""
    elsewhere = _row(op).elsewhere
    return [item for i, item in enumerate(arguments) if i != elsewhere]


def about_devices(text: str) -> str | None:
    """Return the line of an exception's text which says that tensors on different devices met."""
    lines = (line.strip() for line in text.splitlines())
    found = next((line for line in lines if any(words in line for words in _MESSAGES)), None)
    # TorchScript repeats the exception's type before its text.
    return re.sub(r"^(?:\w+Error: )+", "", found) if found is not None else None


@dataclass
class _Sides:
    """On which side the tensors of a moved program are.

    Those in ``moved`` went with it, each with its number of dimensions if known. Those in ``stuck``
    stayed, each with the indices (into ``found``) of the constants that it comes from. Of all
    others nothing is known.
    """

    moved: dict[Hashable, int | None]
    stuck: dict[Hashable, frozenset[int]] = field(default_factory=dict)
    dims: dict[Hashable, int | None] = field(default_factory=dict)
    found: list[Operation] = field(default_factory=list)
    effects: dict[int, set[str]] = field(default_factory=dict)

    def follow(self, step: Operation) -> None:
        """Add one operation, in the order of the program."""
        outputs = [name for name, _ in step.outputs]
        self.dims.update(step.outputs)
        if "asserts_device" in _row(step.op).kinds:
            if step.device is not None and self.moved.keys() & set(step.inputs):
                self.effects[len(self.found)] = {RAISES}
                self.found.append(step)
        elif step.device is not None:
            self.stuck.update(dict.fromkeys(outputs, frozenset({len(self.found)})))
            self.found.append(step)
        else:
            self._pass_on(step)

    def _pass_on(self, step: Operation) -> None:
        """Put what an operation without a device of its own makes on the side of its inputs."""
        outputs = [name for name, _ in step.outputs]
        inputs = step.inputs[-1:] if "as_last" in _row(step.op).kinds else step.inputs
        stuck = [name for name in inputs if name in self.stuck]
        rest = [name for name in inputs if name not in self.stuck]
        if step.op == "return":
            self._blame(stuck, RETURNED)
        elif step.opaque:
            self._blame(stuck, UNKNOWN)
        elif any(self.moved.get(name, 0) != 0 for name in rest):
            self._meet(stuck, RAISES)
            self.moved.update(step.outputs)
        elif stuck and all(name in self.moved for name in rest):
            if rest:
                # Numbers: in a trace they are tensors that map_location moves, and to(device) does
                # not.
                self._meet(stuck, UNKNOWN)
            held = frozenset[int]().union(*(self.stuck[name] for name in stuck))
            self.stuck.update(dict.fromkeys(outputs, held))
        elif not stuck and any(name in self.moved for name in rest):
            self.moved.update(step.outputs)
        else:
            self._blame(stuck, UNKNOWN)

    def effect(self, number: int) -> str:
        """Return the worst effect of a constant, by its index."""
        if self.found[number].device != "cpu":
            # On a machine without that device its tensors cannot even be made.
            return RAISES
        return min(self.effects.get(number, {NOTHING}), key=EFFECTS.index)

    def _meet(self, stuck: Iterable[Hashable], effect: str) -> None:
        for name in stuck:
            dims = self.dims.get(name)
            if dims != 0:
                self._blame([name], UNKNOWN if dims is None else effect)

    def _blame(self, names: Iterable[Hashable], effect: str) -> None:
        for name in names:
            for number in self.stuck[name]:
                self.effects.setdefault(number, set()).add(effect)
