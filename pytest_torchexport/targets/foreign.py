"""Artifacts that somebody else made: a file from the team's own export script, or any callable.

Not a target itself. A file is never loaded in this process: loading can run code that it holds
(torch.export.load of a tampered .pt2 does), so every call of it goes to the clean process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import sandbox, targets
from pytest_torchexport.limits import TimeLimitExceeded
from pytest_torchexport.observe import Hung, Raised, Returned
from pytest_torchexport.plan import Plan
from pytest_torchexport.spec.inputs import Call, InputSpec
from pytest_torchexport.targets.base import Artifact, DirectArtifact, NotApplicable
from pytest_torchexport.targets.branches import Branches
from pytest_torchexport.targets.script import has_loops
from pytest_torchexport.targets.sizes import Suspicion
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
    """What a foreign file raised in the clean process."""


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """A file, each of whose calls is one load and one run in the clean process."""

    program: Path
    plan: Plan
    constants: tuple[Any, ...]
    structure: Structure
    blocked: Sequence[str]
    module: Any = None
    baked: tuple[str, ...] = ()
    native_loops: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Load and run it there."""
        answer = sandbox.run_clean(
            sandbox.Request(
                target=str(targets.entry_point(self.plan.target)),
                path=self.program,
                device=self.plan.device,
                call=self.lower(Call(args, kwargs)).to("cpu"),
                seed=self.plan.seed,
                runs=1,
                limit=self.plan.time_limit,
                blocked=self.blocked,
                imports=self.plan.runtime_imports,
            )
        )
        if isinstance(answer, sandbox.NotLoaded):
            raise ForeignError(f"does not load: {answer.outcome}")
        if isinstance(answer, sandbox.Died):
            raise ForeignError(f"the clean process died: {answer.reason}")
        (outcome,) = answer
        if isinstance(outcome, Hung):
            raise TimeLimitExceeded
        if isinstance(outcome, Raised):
            raise ForeignError(str(outcome))
        value = Call((self.lift(outcome.value),)).to(self.plan.device)
        return value.args[0]

    def save(self, directory: Path) -> Path:
        """The file itself: it is where its owner put it."""
        return self.program

    def lower(self, call: Call) -> Call:
        """ONNX takes the call's tensors in order; everything else takes the call."""
        if self.plan.target not in FLAT:
            return call
        return Call(call.tensors())

    def lift(self, value: Any) -> Any:
        """ONNX returns a flat list: eager's pytree is put round it."""
        if self.plan.target not in FLAT:
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
        """Nothing: to read a file's metadata is to load it, and calls show the same."""
        return ()

    def branches(self) -> Branches | None:
        """Not known, for the same reason."""
        return None


def foreign(
    thing: Any, plan: Plan, example: Returned, blocked: Sequence[str]
) -> Artifact | NotApplicable:
    """The artifact for a path or a callable. Raises FileNotFoundError or ValueError for a wrong path."""
    if not isinstance(thing, (str, Path)):
        return _callable(thing)
    path = Path(thing).resolve()
    owners = SUFFIXES.get(path.suffix)
    if owners is None:
        raise ValueError(f"{path.name!r} is no artifact; legal: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {thing}")
    if plan.target not in owners:
        return NotApplicable(f"a {path.suffix} file is judged by {' and '.join(owners)}")
    leaves, structure = flatten(example.value)
    constants = tuple(
        torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for _, leaf in leaves
    )
    return ForeignFile(
        program=path, plan=plan, constants=constants, structure=structure, blocked=blocked
    )


def _callable(thing: Callable[..., Any]) -> DirectArtifact:
    if not callable(thing):
        raise ValueError(f"{thing!r:.80} is neither a path nor callable")

    def refuse(program: Any, path: Path) -> None:
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
