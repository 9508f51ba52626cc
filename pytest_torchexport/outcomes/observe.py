"""Run a callable on a call and return its outcome: for eager, artifacts and loaded artifacts alike.

Cloning, seeding, grad mode, state and catching are done here once, so a target only exports, saves
and loads, and "eager returns, the artifact raises" is just another difference.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call, clone, is_plain, leaves_of
from pytest_torchexport.outcomes import cuda, errors
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, raise_if_interrupted
from pytest_torchexport.outcomes.messages import message_and_line
from pytest_torchexport.outcomes.torch_state import SETTINGS, GradMode
from pytest_torchexport.results.failures import ends_the_test
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.memory import address_of, shared_until_written, times_written
from pytest_torchexport.torch_private.modules import non_persistent_of, registered


@dataclass(frozen=True)
class Returned:
    """The callable returned ``value`` (cloned), and left its inputs as ``inputs``.

    ``inputs`` are the objects that it was given, in the containers that it was given: a dict that
    it extended is as before, and ``rebuilt`` names what it added, removed or replaced there and
    does not return.
    ``changed`` names the global settings of torch that it changed; they have been put back.
    """

    value: Any
    inputs: Call
    changed: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raised:
    """The callable raised. Plain texts: a live exception keeps frames, and frames keep tensors."""

    type: str
    message: str
    where: SourceLine | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True)
class TimedOut:
    seconds: float

    def __str__(self) -> str:
        return (
            f"no return within {self.seconds:.3g} s (a part of torchexport_time_limit, or what "
            "was left of it)"
        )


@dataclass(frozen=True)
class Crashed:
    """The process that ran the callable is gone.

    ``output`` is the end of what it printed. ``from_outside`` is True if the system or a person may
    have killed it, as after a SIGKILL.
    """

    reason: str
    output: str = ""
    from_outside: bool = False

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class NotTransferable:
    """The call or its result cannot be sent to another process.

    ``own_class`` is True if that is because of a class of the user's. Else the protocol lacks the
    kind of value, which is no fault of the artifact's.
    """

    reason: str
    own_class: bool

    def __str__(self) -> str:
        return self.reason


Outcome = Returned | Raised | TimedOut | Crashed | NotTransferable

# Bytes of outcomes that are kept: of sixty calls of a network for images.
KEPT = 2**26
_UNCHANGED = Call()


class Outcomes:
    """Outcomes of calls, each from the same state, so that no call is made twice.

    At most ``KEPT`` bytes of them. Time and what is wrong with a process are no outcomes to keep.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Returned | Raised] = {}
        self._left = KEPT

    def once(self, call: Call, how: Hashable, make: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of a call that is made like an earlier one; ``make`` it if need be."""
        digest = call.digest()
        if digest is None:
            return make()
        known = self._kept.get((digest, how))
        if known is None:
            outcome = make()
            self._keep(call, (digest, how), outcome)
            return outcome
        if isinstance(known, Returned) and known.inputs is _UNCHANGED:
            return replace(known, inputs=call)
        return known

    def _keep(self, call: Call, key: Hashable, outcome: Outcome) -> None:
        if isinstance(outcome, Returned):
            pairs = zip(call.tensors(), outcome.inputs.tensors(), strict=True)
            if all(
                (one.device, one.shape) == (other.device, other.shape) and not differ(one, other)
                for one, other in pairs
            ):
                outcome = replace(outcome, inputs=_UNCHANGED)
            tensors = [*leaves_of(outcome.value), *outcome.inputs.tensors()]
            self._left -= sum(each.nbytes for each in tensors if is_plain(each))
        if isinstance(outcome, (Returned, Raised)) and self._left >= 0:
            self._kept[key] = outcome

    def forget(self) -> None:
        self._kept.clear()
        self._left = KEPT


def killed_from_outside(found: object) -> bool:
    """Return True for a Crashed whose process the system or a person may have ended."""
    return isinstance(found, Crashed) and found.from_outside


# Tensors of more bytes are neither copied nor sent before they have to be.
LARGE_TENSOR = 2**20
# A module's parameters and buffers by name.
Tensors = dict[str, torch.Tensor]
# Makes a call from the state that the one before left: its outcome, and the state after it.
Run = Callable[[Call], "tuple[Outcome, Tensors]"]
# The attribute in which a wrapper (``FunctionModule``, ``FlatModule``) holds the module it calls.
WRAPPED = "owner"


class State:
    """The parameters, buffers and random generators of a module as they were, to be restored.

    A forward that updates buffers would make every later call start elsewhere; copying the whole
    module per call would cost more than the call. Version counters show which tensors were written
    to, except by native kernels (batch norm's running statistics). ``thorough`` is for a module
    that is known to change its state: every tensor is copied, and compared by value.
    """

    def __init__(self, module: torch.nn.Module | None, *, thorough: bool = False) -> None:
        owners = list(module.modules()) if module is not None else []
        self.lost = False
        self._thorough = thorough
        found = [(owner, dict(registered(owner, "buffers"))) for owner in owners]
        # TorchScript registers no further ones, and to ask it takes longer than to ask a module.
        self._buffers = [
            (owner, own)
            for owner, own in found
            if own or not isinstance(owner, torch.jit.ScriptModule)
        ]
        buffers = [t for _, own in self._buffers for t in own.values() if t is not None]
        parameters = list(module.parameters()) if module is not None else []
        kept = {id(t) for t in (*buffers, *(parameters if thorough else ()))}
        self._held = [
            _Held(t, kept_copy(t) if id(t) in kept else None, times_written(t))
            for t in (*buffers, *parameters)
            if not t.is_inference()
        ]
        held = (value for owner in owners for value in vars(owner).values())
        generators = {value for value in held if isinstance(value, torch.Generator)}
        self._generators = [(generator, generator.get_state()) for generator in generators]

    def restore(self) -> bool:
        """Put back everything that was written to. Return True if anything was.

        ``lost`` becomes True if a tensor was written to of which there is no copy.
        """
        changed = [self._put_back(held) for held in self._held]
        changed += [_rebind(owner, own) for owner, own in self._buffers]
        for generator, kept in self._generators:
            changed.append(not torch.equal(generator.get_state(), kept))
            if changed[-1]:
                generator.set_state(kept)
        return any(changed)

    def stale(self) -> bool:
        """Return True if a buffer differs from its copy in value: a native kernel wrote to it."""
        return any(held.differs() for held in self._held)

    def _put_back(self, held: _Held) -> bool:
        tensor, kept = held.tensor, held.copy
        written = times_written(tensor) != held.version
        if not written and not (self._thorough and held.differs()):
            return False
        if kept is None:
            self.lost = True
        else:
            with torch.no_grad():
                # An observer's may be empty until its first call.
                if tensor.shape != kept.shape:
                    tensor.resize_(kept.shape)
                tensor.copy_(kept)
        held.version = times_written(tensor)
        return True


@dataclass
class _Held:
    tensor: torch.Tensor
    copy: torch.Tensor | None
    version: int | None

    def differs(self) -> bool:
        return self.copy is not None and differ(self.tensor.detach(), self.copy)


def kept_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached clone, of a large parameter one that takes no memory until a write.

    Not of a buffer: forward may resize it.
    """
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    if is_parameter and is_plain(tensor) and tensor.nbytes > LARGE_TENSOR:
        return shared_until_written(tensor)
    return tensor.detach().clone()


def are_one_memory(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return True if two tensors are read from the same place: they are equal, NaN included."""

    def reading(tensor: torch.Tensor) -> tuple[Any, ...]:
        how = tensor.is_conj(), tensor.is_neg()
        return (tensor.dtype, tensor.device, tensor.shape, tensor.stride(), *how)

    both = is_plain(left) and is_plain(right) and left.numel() > 0
    return both and reading(left) == reading(right) and address_of(left) == address_of(right)


def differ(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return True if two tensors of one dtype differ in any number; NaN equals itself."""
    if not is_plain(left):
        return False  # no native kernel writes to such buffers, or they have no numbers
    if left.shape != right.shape:
        return True
    if are_one_memory(left, right):
        return False
    if left.is_floating_point() and left.dtype.itemsize == 1:
        left, right = left.view(torch.uint8), right.view(torch.uint8)
    return not bool(((left == right) | ((left != left) & (right != right))).all())


def tensors_of(module: Any, only: Container[str] | None = None) -> Tensors:
    """Return copies of a module's tensors by name: ``parameter NAME``, ``buffer NAME``.

    ``only`` are the names to copy; without it, all. The names leave out a wrapper's attribute
    (``WRAPPED``). Empty for an object that is no module.
    """
    return {
        name: kept_copy(tensor)
        for name, tensor in named_tensors(module)
        if only is None or name in only
    }


def named_tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's tensors under the names of ``tensors_of``; none of another object."""
    if isinstance(module, torch.nn.Module):
        yield from ((f"parameter {_unwrapped(path)}", t) for path, t in module.named_parameters())
        yield from ((f"buffer {_unwrapped(path)}", t) for path, t in module.named_buffers())


def caches_of(module: Any) -> frozenset[str]:
    """Return the names, as in ``tensors_of``, of the buffers with ``persistent=False``."""
    if not isinstance(module, torch.nn.Module):
        return frozenset()
    return frozenset(
        f"buffer {_unwrapped(f'{path}.{name}' if path else name)}"
        for path, part in module.named_modules()
        for name in non_persistent_of(part)
    )


def _unwrapped(name: str) -> str:
    while name.startswith(f"{WRAPPED}."):
        name = name.removeprefix(f"{WRAPPED}.")
    return name


def _rebind(owner: torch.nn.Module, own: dict[str, torch.Tensor | None]) -> bool:
    now = registered(owner, "buffers")
    if now.keys() == own.keys() and all(now[name] is own[name] for name in own):
        return False
    for name in now.keys() - own.keys():
        delattr(owner, name)
    for name, tensor in own.items():
        setattr(owner, name, tensor)
    return True


def seed_everything(seed: int) -> None:
    # Not torch.manual_seed: while CUDA is not initialized, each call formats and queues a stack.
    torch.default_generator.manual_seed(seed)
    cuda.seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def observe(
    function: Callable[..., Any],
    call: Call,
    *,
    seed: int,
    grad_mode: GradMode = GradMode.NO_GRAD,
    run: Callable[[Callable[[], Any]], Any] | None = None,
) -> Outcome:
    """Run ``function`` on clones of the call's tensors, and return the outcome, without a graph.

    ``run`` may run it with a time limit of its own (in a thread); if that limit passes, the outcome
    is TimedOut. What ends the test (Ctrl-C, pytest.skip) passes through. Raises Ineffective if
    something of the machine ran out, cuda.ContextLost if nothing can be run on CUDA after the call,
    and torch.OutOfMemoryError if the device is full.
    """
    own = call.clone()
    leaves, structure = own.flatten("inputs")
    seed_everything(seed)
    before = [read() for read, _, _ in SETTINGS.values()]

    def go() -> Any:
        with grad_mode.entered():
            value = function(*own.args, **own.kwargs)
        cuda.wait_for(own.args, dict(own.kwargs), value)
        return value

    try:
        value = go() if run is None else run(go)
    except TimeLimitExceeded:
        if run is None:
            raise  # the limit of the whole item
        return TimedOut(0.0)
    except BaseException as error:  # sys.exit in a forward is an outcome too
        if ends_the_test(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise_if_interrupted()
        cuda.raise_if_lost()
        errors.raise_fault(error)
        return raised(error)
    finally:
        changed = _put_back(before)
    if all(part.kind == "leaf" for given in structure.children for part in given.children):
        return Returned(clone(value), own, changed)  # it has no containers that could be changed
    # The objects that the call had in their own containers, and where others are now.
    args, kwargs = structure.unflatten([leaf for _, leaf in leaves])
    old, new = dict(leaves), dict(own.flatten("inputs")[0])
    returned = {id(leaf) for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)}
    moved = (
        path
        for path in {**old, **new}
        if not _is_same(old.get(path, old), new.get(path, new))
        and id(new.get(path, new)) not in returned
    )
    return Returned(clone(value), Call(args, kwargs), changed, tuple(moved))


def _is_same(old: Any, new: Any) -> bool:
    """Return True if two leaves are one object, or tensors of one array."""
    tensors = isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)
    if tensors and not old.numel():  # it has no memory
        return not new.numel()
    return old is new or (tensors and are_one_memory(old, new))


def _put_back(before: Sequence[Any]) -> tuple[str, ...]:
    """Restore torch's global settings. Return the names of those that had changed."""
    changed = []
    for (name, (read, write, _)), kept in zip(SETTINGS.items(), before, strict=True):
        if read() != kept:
            write(kept)
            changed.append(name)
    return tuple(changed)


def raised(error: BaseException) -> Raised:
    """Return the outcome for an exception: its type, its message, and the user's line."""
    message, where = message_and_line(error)
    return Raised(type(error).__name__, printable(message), where)
