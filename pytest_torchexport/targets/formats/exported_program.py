"""``torch.export`` files (``.pt2``): load and save them, and read what a program says of itself."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.results.source_line import SourceLine, source_line
from pytest_torchexport.targets.formats.facts import (
    Branches,
    ProgramFacts,
    frames_of_fx,
    indexed,
    users_place,
)
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions
from pytest_torchexport.torch_private.memory import kept_shared

FILENAME = "model.pt2"
# What torch.export.save says of a node that it cannot write.
_NODE = re.compile(r"\AFailed serializing node (\w+) in graph")
SCRIPT = "artifact = torch.export.load(path).module()\n"
# torch's higher-order operators that decide or repeat, by name: some are classes of private
# modules.
BRANCHES = frozenset(
    {"cond", "while_loop", "while_loop_stack_output", "scan", "associative_scan", "map", "map_impl"}
)


@dataclass(frozen=True, kw_only=True)
class ExportedProgramFacts(ProgramFacts):
    """The facts of an ExportedProgram. ``guarded``: what is made of it keeps its guards."""

    program: torch.export.ExportedProgram
    guarded: bool = True

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        return suspicions(spec, SizeFacts.captured(self.program), dropped=not self.guarded)

    def branches(self) -> Branches:
        """Return its ``torch.cond``, ``while_loop``, ``scan`` and ``map``.

        torch keeps only the frames of ``forward`` (unless ``strict``): a ``torch.cond`` in a helper
        function is placed at the line where a ``forward`` calls it, and one inside another's branch
        has no place.
        """
        nodes = higher_order(self.program, BRANCHES)
        return Branches.at(frames_of_fx(node.meta.get("stack_trace")) for node in nodes)

    def line_of(self, text: str) -> SourceLine | None:
        named = _NODE.search(text)
        nodes = self.program.graph.nodes if named is not None else ()
        stack = (node.meta.get("stack_trace") for node in nodes if named and node.name == named[1])
        at = users_place(frames_of_fx(next(stack, None)))
        return source_line(*at) if at is not None else None

    def text(self) -> str:
        return str(self.program)

    def as_plain(self, *, foreign: bool) -> dict[str, Any]:
        """Return the facts of a foreign file with its sizes, as JSON."""
        sizes = {"sizes": SizeFacts.captured(self.program).as_plain()} if foreign else {}
        return {**super().as_plain(foreign=foreign), **sizes}


def higher_order(program: Any, names: Container[str]) -> Iterator[torch.fx.Node]:
    """Yield the nodes of a program, those inside of others too, that call operators so named."""
    root = getattr(program, "graph_module", None)
    for module in root.modules() if isinstance(root, torch.nn.Module) else ():
        nodes = module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ()
        yield from (node for node in nodes if getattr(node.target, "__name__", "") in names)


# -- files -----------------------------------------------------------------------------------------


class LoadedProgram:
    native_loops = False

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.module = program.module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def load(path: Path, device: str) -> LoadedProgram:
    """Load the file and move the program to the device. The file can hold code, which this runs.

    A program that is there already keeps the operations that it makes on other devices.
    """
    program = torch.export.load(path)
    given = program.graph_signature.user_inputs
    # The devices of the inputs, weights included; the CPU if there are none.
    homes = [
        indexed(str(tensor.device))
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(tensor := node.meta.get("val"), torch.Tensor)
        # A weight on ``meta`` has no numbers that could be moved.
        if node.name in given or not tensor.is_meta
    ]
    if any(home != indexed(device) for home in homes or [indexed("cpu")]):
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return LoadedProgram(program)


def read(path: Path, loaded: LoadedProgram) -> ExportedProgramFacts:
    return ExportedProgramFacts(program=loaded.program)


def is_compiled(path: Path) -> bool:
    """Return True if a file holds what AOTInductor compiled, and no ExportedProgram."""
    try:
        with zipfile.ZipFile(path) as archive:
            folders = {part for name in archive.namelist() for part in PurePosixPath(name).parts}
    except Exception:  # loading raises torch's own error
        return False
    return "aotinductor" in folders and "models" not in folders


def save(
    program: torch.export.ExportedProgram, path: Path, extra_files: Mapping[str, str | bytes]
) -> None:
    """Write the program by way of memory.

    Given a path, torch's C++ writer aborts the process if the disk is full.
    """
    buffer = io.BytesIO()
    tensors = (*program.state_dict.values(), *program.constants.values())
    with kept_shared(each for each in tensors if isinstance(each, torch.Tensor)):
        torch.export.save(program, buffer, extra_files=dict(extra_files))
    buffer.seek(0)
    # Not a view of the buffer: the traceback of a full disk would hold it beyond the buffer's life.
    with path.open("wb") as file:
        shutil.copyfileobj(buffer, file)
