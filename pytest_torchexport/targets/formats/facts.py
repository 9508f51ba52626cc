"""The facts that a program states: the one class that checks ask, and that each format fills in.

Beside it what formats say of branches and of devices, and how source lines that they name in ways
of their own are read. Free of torch: the process that loads ONNX files has none.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_torchexport.results.source_line import SourceLine

if TYPE_CHECKING:
    from pytest_torchexport.inputs.spec import Call, InputSpec
    from pytest_torchexport.results.diagnosis import Owner
    from pytest_torchexport.targets.formats.sizes import Suspicion

# The real path of a file, and a line in it.
Place = tuple[str, int]

FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')


@dataclass(frozen=True, kw_only=True)
class ProgramFacts:
    """The facts that a program states; this class has none.

    A format overrides the methods that it can answer. None of them runs the program, and none
    raises. ``notes`` are sentences about the export that a report shows, ``cautions`` those that
    the summary shows of a pass too, ``doubts`` those that are failures under strict.

    ``static_by``: who made a size static that torch captured as dynamic, if anybody.

    ``precision``: the float type that it computes in if that is not the model's own (``float16``):
    it may then differ from eager as much as eager does in it. ``int8``: it is judged so over calls,
    and not element by element.
    """

    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    precision: str = ""
    static_by: Owner | None = None

    def inputs(self) -> tuple[str, ...]:
        """Return the names of its inputs in their order, if it takes them by name or in order."""
        return ()

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return the dims that the program may not accept as the spec has them."""
        return ()

    def branches(self) -> Branches | None:
        """Return the branches and loops that the program still has, None if it cannot tell."""
        return None

    def bounds(self) -> tuple[float, ...]:
        """Return the numbers that its operators compare with or cut at."""
        return ()

    def ranges(self, example: Call) -> Mapping[str, tuple[float, float]]:
        """Return by the path of an argument the numbers beyond which the program cuts it off."""
        return {}

    def line_of(self, text: str) -> SourceLine | None:
        """Return the user's line of the node that an exception names, if it names one."""
        return None

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of the program."""
        return ()

    def text(self) -> str:
        return ""

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return the facts as JSON for another process, without those not known.

        Of a foreign file, which no artifact at hand states the facts of; finding them takes as long
        as loading does.
        """
        branches = self.branches() if foreign else None
        return {} if branches is None else {"branches": branches.as_plain()}


# -- devices ---------------------------------------------------------------------------------------

# What a constant device does in a program that was moved, the worst first. A tensor of no
# dimensions and an index may stay on the CPU: they do nothing.
RAISES = "raises"  # a tensor on that device meets one that was moved
RETURNED = "returned"  # a tensor is returned on another device than the inputs'
NOTHING = "nothing"  # that the program tells
EFFECTS = (RAISES, RETURNED, NOTHING)

# torch's messages when tensors on different devices meet.
_MESSAGES = (
    "is not on the expected device",
    "Expected all tensors to be on the same device",
    "tensors are not at the same device",
    "found two different devices",
    "Tensor device mismatch!",
)


@dataclass(frozen=True, kw_only=True)
class BakedDevice:
    """A device that is a constant of a program.

    In eager ``torch.zeros(3, device=x.device)`` follows its input; a trace has the example's device
    as a constant. ``op`` is the operation that makes or moves a tensor there, ``where`` the user's
    line of it, and ``effect`` one of ``EFFECTS``.
    """

    device: str
    op: str
    where: SourceLine | None
    effect: str


def indexed(device: str) -> str:
    """Return the device with its index: ``cuda`` is ``cuda:0``."""
    kind, _, index = device.partition(":")
    return f"{kind}:{index or 0}"


def about_devices(text: str) -> str | None:
    """Return the line of an exception's text which says that tensors on different devices met."""
    lines = (line.strip() for line in text.splitlines())
    found = next((line for line in lines if any(words in line for words in _MESSAGES)), None)
    # TorchScript repeats the exception's type before its text.
    return re.sub(r"^(?:\w+Error: )+", "", found) if found is not None else None


# -- branches --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The branches and loops that a program still has.

    ``lines`` are (file, line) in the user's source, files as real paths; ``unplaced`` counts the
    branches of which the program does not say the line.
    """

    lines: frozenset[Place] = frozenset()
    unplaced: int = 0

    @classmethod
    def at(cls, stacks: Iterable[Sequence[Place]]) -> Branches:
        """Return the branches whose frames are given, the innermost frame first.

        A branch whose frames are all torch's own is not the user's, and is left out.
        """
        lines, unplaced = set(), 0
        for frames in stacks:
            place = users_place(frames)
            if place is not None:
                lines.add(place)
            elif not frames:
                unplaced += 1
        return cls(lines=frozenset(lines), unplaced=unplaced)

    def as_plain(self) -> dict[str, Any]:
        return {"lines": [list(place) for place in sorted(self.lines)], "unplaced": self.unplaced}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Branches:
        lines = frozenset((str(file), int(line)) for file, line in plain["lines"])
        return cls(lines=lines, unplaced=int(plain["unplaced"]))

    def covers(self, file: str, first: int, last: int) -> bool:
        """Return True if a branch begins on one of these lines of the file."""
        path = real_path(file)
        return any(path == other and first <= line <= last for other, line in self.lines)


# -- source lines ----------------------------------------------------------------------------------


def frames_in(text: str) -> list[Place]:
    """Return the places in real files that a text names, in its order."""
    found = [(path, int(number)) for path, number in FRAME.findall(text)]
    return [(real_path(path), number) for path, number in found if is_file(path)]


def frames_of_fx(text: str | None) -> list[Place]:
    """Return the frames of an fx node's stack trace, innermost first.

    Each level of subgraphs adds a generated frame. Below the first level only the place of the
    outermost operator is known, which is not the node's own: then there are none.
    """
    generated = [path for path, _ in FRAME.findall(text or "") if not is_file(path)]
    return frames_in(text or "")[::-1] if len(generated) < 2 else []


def users_place(frames: Iterable[Place]) -> Place | None:
    """Return the first of the frames that is not torch's own, or None."""
    return next((place for place in frames if not _is_torchs(place[0])), None)


def is_outside_torch(path: str) -> bool:
    """Return True if a path is a real file that is neither torch's nor this package's."""
    return is_file(path) and not _is_torchs(real_path(path))


def is_file(path: str) -> bool:
    """Return True if a path may be a file: ``<string>`` is none, nor what lies in an archive."""
    return not path.startswith(("<", "code/"))


@lru_cache(maxsize=1024)
def real_path(path: str) -> str:
    """Return the path without links. Cached: a large program has a million frames."""
    return os.path.realpath(path)


@lru_cache(maxsize=1024)
def _is_torchs(path: str) -> bool:
    """Return True if a real path is in torch, or in this package, which wraps some subjects."""
    # Found, not imported: an ONNX file is read in a process without torch.
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    inside = (*roots, Path(__file__).parents[2])
    return any(Path(path).is_relative_to(directory.resolve()) for directory in inside)
