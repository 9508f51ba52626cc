"""Eager under observation: one call at a time, and what its conditions did.

Its own copy of the module, apart from the one verdicts come from. The rewritten code is put in place for
the length of a block and taken out again, whatever happens; functions keep their identity, so that bound,
decorated and imported references run it too.
"""

from __future__ import annotations

import re
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from pytest_torchexport.eager.fingerprint import changed, fingerprint
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.callgraph import files_of, functions_of, not_followed, owner_of
from pytest_torchexport.explore.conditions import Outcome, Site
from pytest_torchexport.explore.provenance import Origin, violation
from pytest_torchexport.explore.recorder import Endless, Key, Path, Recorder
from pytest_torchexport.explore.rewrite import placed, rewritten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.messages import is_users
from pytest_torchexport.outcomes.observe import (
    Raised,
    State,
    TimedOut,
    observe,
    seed_everything,
)
from pytest_torchexport.outcomes.operators import compiling_nothing
from pytest_torchexport.outcomes.torch_state import suppress_output

# Conditions before the one to be flipped whose outcome is to stay.
KEPT = 3
# How long a call with a ``while`` may take before it is taken for one that does not end.
ENDING_SECONDS = 10.0
# Code in place is the process's: two threads must not take each other's for the original.
_ONE_AT_A_TIME = threading.RLock()
# How many times as many conditions as the example's a call may meet.
PATIENCE = 20
# What a ``for`` may go over without end.
_ENDLESS = re.compile(r"(?<![\w.])(itertools\.)?(count|cycle|repeat|iter)\(")


@dataclass(frozen=True)
class Probe:
    """What a call knows at a condition on the way to coming out otherwise: how much is missing, its gradient
    per float leaf of the call (by position), those of the conditions before that must stay as they are,
    and the tensors that are compared there.
    """

    missing: float
    gradients: dict[int, Tensor]
    kept: tuple[dict[int, Tensor], ...]
    origin: Origin | None
    inputs: tuple[Tensor | None, ...]


class Observed:
    """The subject's eager forward, whose conditions are told."""

    def __init__(self, eager: Reference, seed: int, packages: tuple[str, ...] = ()) -> None:
        self.recorder = Recorder()
        self.unread: tuple[str, ...] = ()
        self.complete = True
        self.fresh_each_call = eager.fresh_each_call
        self.example_catches = False
        self._endless = False
        self._loops = False
        self._leaked = False
        self._ways: set[int] = set()
        self._patience = ENDING_SECONDS
        self._eager = eager
        self._seed = seed
        self._subject = eager.pristine.copy()
        self._codes = self._prepare(packages)
        self._fit()

    @property
    def sites(self) -> Mapping[int, Site]:
        """Every condition that may be met, by its number."""
        return self.recorder.sites

    @property
    def constants(self) -> Iterator[Any]:
        """The constants in the code that may run."""
        for function, _ in self._codes:
            yield from _constants(function.__code__)

    @property
    def module(self) -> torch.nn.Module | None:
        """The copy that is run."""
        return self._subject.module

    def is_of_parts(self, site: Site) -> bool:
        """Whether a condition stands in code of the user's, or in that of a part's own class."""
        return is_users(site.file) or site.file in self._files

    def _prepare(
        self, packages: tuple[str, ...]
    ) -> list[tuple[types.FunctionType, types.CodeType]]:
        """The functions and the code they are to have; and those that cannot be read."""
        owns = owner_of(self._subject, packages)
        self._files = files_of(self._subject)
        functions, self.complete = functions_of(self._subject, owns)
        self.elsewhere = not_followed(self._subject, owns)
        by_file: dict[str, set[types.CodeType]] = {}
        for function in functions:
            by_file.setdefault(function.__code__.co_filename, set()).add(function.__code__)
        # Codes of two files may be equal: only their sites tell them apart.
        twins: dict[tuple[str, types.CodeType], types.CodeType] = {}
        unread: list[str] = []
        for file, codes in by_file.items():
            made = rewritten(file, frozenset(codes))
            self.recorder.sites |= made.sites
            for code, twin in made.codes.items():
                twins[file, code] = placed(twin, self.recorder)
            unread += [code.co_qualname for code in made.unread]
            self.recorder.coarse.update(made.unread)
        self.unread = tuple(dict.fromkeys(unread))
        found = [(f, twins.get((f.__code__.co_filename, f.__code__))) for f in functions]
        return [(function, twin) for function, twin in found if twin is not None]

    def _start_anew(self) -> None:
        """Before each call, where calls change more than is put back after them."""
        if self.fresh_each_call:
            self._subject = self._eager.pristine.copy()
            self._fit()

    def _fit(self) -> None:
        module = self._subject.module
        self._state = State(module, thorough=self._eager.stateful)
        self._before = fingerprint(self._root())
        self._names = (
            {id(part): name for name, part in module.named_modules()} if module is not None else {}
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, calls are told. Nothing else of eager runs there, and what it warns of is no news."""
        with ExitStack() as stack:
            stack.enter_context(_ONE_AT_A_TIME)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(suppress_output())
            stack.enter_context(compiling_nothing())
            for function, code in self._codes:
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = code
            stack.callback(register_module_forward_pre_hook(self.recorder.enter).remove)
            leave = register_module_forward_hook(self.recorder.leave, always_call=True)
            stack.callback(leave.remove)
            yield

    def run(self, call: Call, deadline: float = float("inf")) -> Path | None:
        """The path of a call; None where eager raises, or goes on for too long."""
        self._start_anew()
        self.recorder.deadline = deadline
        outcome = observe(self._subject.function, call, seed=self._seed, run=self._aside)
        self._state.restore()
        if isinstance(outcome, TimedOut):
            raise TimeLimitExceeded  # the item's: a call has none of its own here
        self._endless = self.recorder.cut
        self._loops = self._loops or any(map(self._may_not_end, self.recorder.path.marks()))
        self._look_after(self.recorder.path)
        return None if isinstance(outcome, Raised) else self.recorder.path

    def _may_not_end(self, key: Key) -> bool:
        site = self.sites[key[0]]
        return site.kind == "while" or bool(site.loops and _ENDLESS.search(site.text))

    def drifted(self) -> bool:
        """Whether calls changed more than is put back after each: from then on each has a copy of its own, and
        what was seen before counts for nothing.
        """
        leaked, self._leaked = self._leaked, False
        return leaked

    def _look_after(self, path: Path) -> None:
        """After the first call on each way: what one call changes, another may change back."""
        way = hash(path.decisions())
        if self.fresh_each_call or way in self._ways:
            return
        self._ways.add(way)
        moved = changed(self._before, fingerprint(self._root()))
        if any(not change.ref.is_tensor_of_module for change in moved):
            self.fresh_each_call = self._leaked = True

    def _root(self) -> Any:
        return self._subject.module if self._subject.module is not None else self._subject.function

    def learn(self, example: Call) -> None:
        """How long calls go on, from one that ends; and whether forward catches what torch raises there."""
        start = time.perf_counter()
        with self.watching():
            self.run(example)
        self._patience = max(ENDING_SECONDS, PATIENCE * (time.perf_counter() - start))
        self.recorder.allow(PATIENCE)
        self.example_catches = self.catches

    @property
    def catches(self) -> bool:
        """Whether an operation of torch's raised on the last call, and forward went on."""
        return self.recorder.origins.raised

    def loops(self) -> bool:
        """Whether a call came to a loop that may not end."""
        return self._loops

    def ends(self, call: Call) -> bool:
        """Whether a call comes to an end; where it raises, it does."""
        with self.watching():
            self.run(call, until(self._patience))
        return not self._endless

    def _aside(self, go: Callable[[], Any]) -> Any:
        self.recorder.start(self._names)
        try:
            with self.recorder.origins:
                return go()
        finally:
            self.recorder.stop()

    def probe(self, call: Call, position: int, wanted: Outcome, deadline: float) -> Probe | None:
        """Run a call up to the condition at ``position`` of its path, which came out otherwise than wanted.

        None where it does not get there.
        """
        self._start_anew()
        own = call.clone()
        inputs = own.leaves()
        sources: dict[int, Tensor] = {}
        given: list[Any] = []
        for index, leaf in enumerate(inputs):
            if (
                isinstance(leaf, Tensor)
                and leaf.is_floating_point()
                and leaf.layout == torch.strided
            ):
                sources[index] = leaf.detach().requires_grad_()
                given.append(
                    sources[index].clone()
                )  # no leaf of autograd's: forward may write to it
            else:
                given.append(leaf)
        _, structure = own.flatten()
        args, kwargs = structure.unflatten(given)
        return _Probing(self, sources, given).run(Call(args, kwargs), position, wanted, deadline)


class _Probing:
    """One run towards one condition."""

    def __init__(self, observed: Observed, sources: dict[int, Tensor], given: list[Any]) -> None:
        self._observed = observed
        self._sources = sources
        self._given = given
        self._found: Probe | None = None
        self._before: list[tuple[Origin, Outcome]] = []
        self._position = -1
        self._wanted: Outcome = True

    def run(self, call: Call, position: int, wanted: Outcome, deadline: float) -> Probe | None:
        observed, recorder = self._observed, self._observed.recorder
        recorder.traveler, recorder.deadline = self, deadline
        self._position, self._wanted = position, wanted
        seed_everything(observed._seed)
        try:
            with torch.enable_grad(), _frozen(observed.module):
                observed._aside(lambda: observed._subject.function(*call.args, **call.kwargs))
        except Endless:
            return self._found
        except TimeLimitExceeded:
            raise
        except Exception:
            return self._found  # what eager does without autograd, ``run`` has seen
        finally:
            recorder.traveler = None
            observed._state.restore()
        return self._found

    def came(self, position: int, origin: Origin | None, outcome: Outcome) -> None:
        """Remember the last conditions before the one that is gone for. The call goes on: one that was cut could
        leave behind what the next one stumbles over.
        """
        if position == self._position:
            self._arrive(origin)
        elif position < self._position and origin is not None:
            self._before = [*self._before, (origin, outcome)][-KEPT:]

    def _arrive(self, origin: Origin | None) -> None:
        missing = violation(origin, bool(self._wanted)) if origin is not None else None
        gradients = self._gradients(missing)
        kept = []
        for before, was in self._before if gradients else ():
            found = self._gradients(violation(before, not was))
            if found:
                kept.append(found)
        self._found = Probe(
            missing=float(missing.detach()) if missing is not None else 0.0,
            gradients=gradients,
            kept=tuple(kept),
            origin=origin,
            inputs=tuple(item if isinstance(item, Tensor) else None for item in self._given),
        )

    def _gradients(self, of: Tensor | None) -> dict[int, Tensor]:
        if of is None or not of.requires_grad or not self._sources:
            return {}
        try:
            found = torch.autograd.grad(
                of, list(self._sources.values()), retain_graph=True, allow_unused=True
            )
        except RuntimeError:  # an operator without a backward
            return {}
        return {
            index: gradient.nan_to_num(0.0, 0.0, 0.0)
            for index, gradient in zip(
                self._sources, cast(Sequence[Tensor | None], found), strict=True
            )
            if gradient is not None  # an input that the condition does not depend on
        }


@contextmanager
def _frozen(module: torch.nn.Module | None) -> Iterator[None]:
    """Only the inputs are differentiated: gradients of parameters would cost as much again."""
    learned = (
        [item for item in module.parameters() if item.requires_grad] if module is not None else []
    )
    for item in learned:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in learned:
            item.requires_grad_(True)


def _constants(code: types.CodeType) -> Iterator[Any]:
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _constants(item)
        elif isinstance(item, (tuple, frozenset)):
            yield from item
        else:
            yield item


def until(seconds: float) -> float:
    """A moment so many seconds from now, as the recorder reads the clock."""
    return time.perf_counter() + seconds
