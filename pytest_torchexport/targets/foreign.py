"""Artifacts that somebody else made: a file from the team's own export script, or any callable.

Not a target itself. A file is never loaded in this process: loading can run code that it holds
(torch.export.load of a tampered .pt2 does), so what is known of it here is what a clean process told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.observe import Returned
from pytest_torchexport.spec.inputs import Call, InputSpec
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable
from pytest_torchexport.targets.branches import Branches
from pytest_torchexport.targets.described import facts_from
from pytest_torchexport.targets.script import has_loops
from pytest_torchexport.targets.sizes import Suspicion, onnx_facts, suspicions
from pytest_torchexport.tree import Structure, flatten

# Which targets' items judge a file: a .pt may come from either side of TorchScript.
SUFFIXES: dict[str, tuple[str, ...]] = {
    ".pt": ("trace", "script"),
    ".pth": ("trace", "script"),
    ".pt2": ("export",),
    ".onnx": ("onnx", "onnx_legacy"),
}
FLAT = ("onnx", "onnx_legacy")


class ForeignError(RuntimeError):
    """A file's outputs are not those that eager has."""


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """A file as an artifact: how eager's calls are its calls, and what the clean process found in it."""

    program: Path
    target: str
    constants: tuple[Any, ...]
    structure: Structure
    found: Mapping[str, Any] = field(default_factory=dict)
    module: Any = None
    baked: tuple[str, ...] = ()
    native_loops: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Never here."""
        raise ForeignError("a file that this run did not make is called in a clean process only")

    def save(self, directory: Path) -> Path:
        """The file itself: it is where its owner put it."""
        return self.program

    def lower(self, call: Call) -> Call:
        """ONNX takes the call's tensors in order; everything else takes the call."""
        return Call(call.tensors()) if self.target in FLAT else call

    def lift(self, value: Any) -> Any:
        """ONNX returns a flat list: eager's pytree is put round it."""
        if self.target not in FLAT:
            return value
        waiting = iter(value)
        tensors = [leaf for leaf in self.constants if isinstance(leaf, torch.Tensor)]
        if len(tensors) != len(value):
            raise ForeignError(f"returns {len(value)} outputs, eager {len(tensors)} tensors")
        leaves = [
            next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self.constants
        ]
        return self.structure.unflatten(leaves)

    def audit(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """What the file says of its inputs' sizes."""
        shapes = self.found.get("shapes")
        if shapes is not None:
            waiting = iter(shapes)
            own = [
                next(waiting, None) if isinstance(leaf.example, torch.Tensor) else None
                for leaf in spec.leaves
            ]
            return suspicions(spec, onnx_facts([s and tuple(s) for s in own], {}), dropped=True)
        sizes = self.found.get("sizes")
        return suspicions(spec, facts_from(sizes)) if sizes is not None else ()

    def branches(self) -> Branches | None:
        """The branches and loops that the file still has."""
        plain = self.found.get("branches")
        return Branches.from_plain(plain) if plain is not None else None


def foreign_file(path: Path, target: str, example: Returned) -> ForeignFile | NotApplicable:
    """The artifact for a path, of which nothing is known yet. Raises OSError or ValueError for a wrong path."""
    owners = SUFFIXES.get(path.suffix)
    if owners is None:
        raise ValueError(f"{path.name!r} is no artifact; legal: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if target not in owners:
        return NotApplicable(f"a {path.suffix} file is judged by {' and '.join(owners)}")
    leaves, structure = flatten(example.value)
    constants = tuple(
        torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for _, leaf in leaves
    )
    return ForeignFile(program=path, target=target, constants=constants, structure=structure)


def foreign_callable(thing: Callable[..., Any]) -> DirectArtifact:
    """The artifact for something that can be called. Raises ValueError where it cannot."""
    if not callable(thing):
        raise ValueError(f"{thing!r:.80} is neither a path nor callable")

    def refuse(program: Any, path: Path, extra_files: Any) -> None:
        raise NotImplementedError("a callable has no file")

    state = thing if isinstance(thing, torch.nn.Module) else None
    return DirectArtifact(
        program=thing,
        module=state,
        run=thing,
        write=refuse,
        filename="",
        native_loops=has_loops(thing),
    )
