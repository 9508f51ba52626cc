"""How an artifact is called: in this process, or in one of its own that may crash.

Separate from the judge, who only wants to know what came of a call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from pytest_torchexport.inputs.pytrees import tree_map
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import in_thread
from pytest_torchexport.outcomes.observe import (
    Crashed,
    Outcome,
    Returned,
    State,
    Tensors,
    TimedOut,
    observe,
    raised,
    tensors_of,
)
from pytest_torchexport.sandbox.session import Session
from pytest_torchexport.targets.base import Artifact
from pytest_torchexport.targets.formats.facts import ProgramFacts


class Runnable(Protocol):
    """What can be called in this process."""

    @property
    def module(self) -> Any:
        """What holds state that calls may change, or None."""

    @property
    def native_loops(self) -> bool:
        """Whether a call may run for ever in code that Python cannot interrupt."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""


class Runner(Protocol):
    """One way to call an artifact."""

    def run(self, call: Call, seed: int) -> Outcome:
        """What it does with the call, from its state as it was exported."""

    def in_a_row(self, calls: Sequence[Call], seed: int) -> list[tuple[Outcome, Tensors]]:
        """What it does with each call and the state it leaves, each from where the one before ended."""

    def tensors(self) -> Tensors:
        """The parameters and buffers that it starts with, by name."""


class InProcess:
    """Calls an artifact here."""

    def __init__(
        self,
        artifact: Runnable,
        *,
        device: str,
        stateful: bool,
        fresh_each_call: bool,
        left: Callable[[], float],
    ) -> None:
        self._pristine = artifact
        self._device = device
        self._left = left
        self._state = State(artifact.module, thorough=stateful)
        # A ScriptModule has attributes of its own, of any type, which only a copy of it keeps as they were.
        self._fresh_each_call = fresh_each_call and is_scripted(artifact.module)

    def run(self, call: Call, seed: int) -> Outcome:
        """What it does with the call, from its state as it was exported."""
        outcome = self._observe(self._artifact(), call, seed)
        self._state.restore()
        return outcome

    def in_a_row(self, calls: Sequence[Call], seed: int) -> list[tuple[Outcome, Tensors]]:
        """What it does with each call and the state it leaves, each from where the one before ended."""
        artifact = self._artifact()
        found = [
            (self._observe(artifact, call, seed), tensors_of(artifact.module)) for call in calls
        ]
        self._state.restore()
        return found

    def tensors(self) -> Tensors:
        """The parameters and buffers that it starts with, by name."""
        return tensors_of(self._pristine.module)

    def _artifact(self) -> Runnable:
        return copy.deepcopy(self._pristine) if self._fresh_each_call else self._pristine

    def _observe(self, artifact: Runnable, call: Call, seed: int) -> Outcome:
        def aside(go: Callable[[], Any]) -> Any:
            return in_thread(go, self._left())

        run = aside if artifact.native_loops else None
        return observe(artifact, call.to(self._device), seed=seed, run=run)


class IsolatedRaised(RuntimeError):
    """What an isolated artifact did instead of returning, for those who call it like a function."""


@dataclass
class Isolated:
    """An artifact of which each call is made in a clean process, loaded once and again after each death.

    An Artifact like the one it stands for: what it does not do itself, ``inner`` does.
    """

    inner: Artifact
    open: Callable[[], Session]
    device: str
    seed: int
    left: Callable[[], float]
    session: Session | None = field(default=None, repr=False)
    module: Any = None
    native_loops: bool = False
    said: str = ""

    def run(self, call: Call, seed: int) -> Outcome:
        """What it does with the call, from how it was loaded."""
        return self._run(call, seed)[0]

    def in_a_row(self, calls: Sequence[Call], seed: int) -> list[tuple[Outcome, Tensors]]:
        """What it does with each call and the state it leaves, each from where the one before ended."""
        found: list[tuple[Outcome, Tensors]] = []
        for call in calls:
            if found and isinstance(found[-1][0], (Crashed, TimedOut)):
                found.append(found[-1])  # where that one ended there is nothing to go on from
            else:
                found.append(self._run(call, seed, anew=not found, state=True))
        return found

    def tensors(self) -> Tensors:
        """The parameters and buffers that it was loaded with, by name."""
        return self._opened().tensors(self.left())

    def close(self) -> None:
        """End its process."""
        if self.session is not None:
            self.said = self.session.printed()
            self.session.close()
            self.session = None

    def printed(self) -> str:
        """The end of what it has printed."""
        return self.session.printed() if self.session is not None else self.said

    def _run(
        self, call: Call, seed: int, *, anew: bool = True, state: bool = False
    ) -> tuple[Outcome, Tensors]:
        return elsewhere(
            self._opened(),
            self.inner,
            call,
            device=self.device,
            seed=seed,
            limit=self.left(),
            anew=anew,
            state=state,
        )

    def _opened(self) -> Session:
        if self.session is None or self.session.over:
            self.session = self.open()
        return self.session

    # -- an Artifact -------------------------------------------------------------------------------

    @property
    def program(self) -> Any:
        """The one it stands for."""
        return self.inner.program

    @property
    def baked(self) -> tuple[str, ...]:
        """The arguments that became constants."""
        return self.inner.baked

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it there, as if it were here."""
        outcome = self.run(Call(args, kwargs), self.seed)
        if not isinstance(outcome, Returned):
            raise IsolatedRaised(str(outcome))
        return outcome.value

    def save(self, directory: Any) -> Any:
        """As the one it stands for."""
        return self.inner.save(directory)

    def pack_inputs(self, call: Call) -> Call:
        """As the one it stands for."""
        return self.inner.pack_inputs(call)

    def unpack_outputs(self, value: Any) -> Any:
        """As the one it stands for."""
        return self.inner.unpack_outputs(value)

    @property
    def facts(self) -> ProgramFacts:
        """As the one it stands for."""
        return self.inner.facts


def elsewhere(
    session: Session,
    artifact: Artifact,
    call: Call,
    *,
    device: str,
    seed: int,
    limit: float,
    anew: bool = True,
    state: bool = False,
) -> tuple[Outcome, Tensors]:
    """What a loaded artifact does with a call, in eager's terms: its value unpacked and on the item's device, its
    inputs those of the call.
    """
    own = call.to("cpu")
    try:
        packed = artifact.pack_inputs(own)
    except Exception as error:
        return raised(error), {}
    outcome, tensors = session.run(packed, seed=seed, limit=limit, anew=anew, state=state)
    if not isinstance(outcome, Returned):
        return outcome, tensors
    try:
        value = artifact.unpack_outputs(outcome.value)
    except Exception as error:
        return raised(error), tensors
    here = Call((value,)).to(device).args[0]
    return Returned(here, _left(own, packed, outcome.inputs).to(device)), tensors


def is_scripted(module: Any) -> bool:
    """Whether what holds an artifact's state is TorchScript."""
    return isinstance(module, torch.jit.ScriptModule)


def _left(call: Call, packed: Call, left: Call) -> Call:
    """The call with what its packed form was left with. Packing hands on the call's own tensors."""
    after = {id(a): b for a, b in zip(packed.tensors(), left.tensors(), strict=True)}

    def own(leaf: Any) -> Any:
        return after.get(id(leaf), leaf)

    return Call(tree_map(own, call.args), tree_map(own, dict(call.kwargs)))
