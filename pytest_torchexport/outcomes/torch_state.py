"""Set the global state of the process for a check, and restore the user's.

Most global changes are here (ARCHITECTURE.md lists the others): random streams, threads, TF32, grad
mode, autocast, warnings, stdout, and functions of torch that are replaced for a while. A forward
or an exporter that changes any of it must not reach the user's next test.
"""

from __future__ import annotations

import contextlib
import enum
import io
import logging
import os
import random
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pytest_torchexport.outcomes import cuda
from pytest_torchexport.results.source_line import (
    SourceLine,
    has_owner,
    is_users,
    short_path,
    source_line,
)
from pytest_torchexport.torch_private.circumstances import (
    default_device,
    dynamo_is_loaded,
    set_default_device,
)

MAX_WARNINGS = 20
MAX_OUTPUT = 4000

# What torch warns about itself, of no use to the user: deprecations of what the exporters call.
# jit: https://github.com/pytorch/pytorch/issues/103841; copyreg warns of LeafSpec on each export.
_NOISE = re.compile(
    r"torch\.jit\.\w+` is (deprecated|not supported)|LeafSpec|legacy TorchScript-based ONNX export"
    r"|The feature will be removed|is_gradient_checkpointing|onnx.*deprecat|_check_is_size"
    r"|The axis name: \w+ will not be used|The dynamic axes will not be renamed"
    r"|Converting a tensor with requires_grad=True to a scalar",  # by the search's own calls
    re.IGNORECASE,
)
# Here torch prints a tensor, as in an error's text, and while a trace runs warns of each number.
_PRINTS = ("torch/_tensor.py", "torch/_tensor_str.py")
_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch._dynamo",
    "torch._guards",
    "torch._inductor",
    "torch._subclasses",
    "torch.fx",
    "torch.utils._pytree",
    "torchao",
    "torch.__trace",
    "onnxscript",
    "onnx_ir",
)


@dataclass
class CapturedOutput:
    """Warnings (without torch's noise) and the number of printed lines while an item ran.

    ``of_libraries``: the warnings of a trace in files that are not the user's; ``own``: all others.
    ``traced`` are the lines, of the user's or of a model, at which a trace makes a constant, as
    torch warned.
    """

    own: dict[str, None] = field(default_factory=dict)
    of_libraries: dict[str, None] = field(default_factory=dict)
    printed: int = 0
    traced: dict[SourceLine, None] = field(default_factory=dict)

    def warned(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any
    ) -> None:
        """Stand in for ``warnings.showwarning``."""
        traced = category.__name__ == "TracerWarning"
        if traced and filename.endswith(_PRINTS):
            return
        text = " ".join(str(message).split())
        text = text.partition(". ")[0] if traced else text
        if traced and has_owner(filename):
            self.traced[source_line(filename, lineno)] = None
        kept = self.of_libraries if traced and not is_users(filename) else self.own
        if len(kept) < MAX_WARNINGS and not _NOISE.search(text):
            kept[f"{category.__name__}: {text:.200} ({short_path(filename)}:{lineno})"] = None

    @property
    def warnings(self) -> list[str]:
        """The warnings, those first that say most."""
        return [*self.own, *self.of_libraries][:MAX_WARNINGS]


class _Bounded(io.TextIOBase):
    """A stdout that keeps the beginning: a forward may print on each of 300 calls."""

    def __init__(self) -> None:
        self.text = ""
        self.lines = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        if len(self.text) < MAX_OUTPUT:
            self.text += text[: MAX_OUTPUT - len(self.text)]
        return len(text)


@contextmanager
def quiet(device: str) -> Iterator[CapturedOutput]:
    """Save everything global, set it for a check, restore it after; collect warnings and output."""
    heard = CapturedOutput()
    output = _Bounded()
    try:
        with ExitStack() as stack:
            cuda.initialize(device)
            stack.callback(random_numbers())
            stack.callback(_restore_process, list(sys.path), dict(os.environ))
            stack.enter_context(torch_globals(device))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("always")
            # The documented way to divert warnings without keeping each one.
            warnings.showwarning = heard.warned  # type: ignore[assignment]
            for logger in map(logging.getLogger, _LOGGERS):
                stack.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL)
            stack.enter_context(contextlib.redirect_stdout(output))
            stack.enter_context(contextlib.redirect_stderr(output))
            yield heard
    finally:
        heard.printed = output.lines
        if output.text:
            sys.stdout.write(output.text)


def random_numbers() -> Callable[[], None]:
    """Return a function that puts the random streams of torch, Python and NumPy back as now."""
    numpy = sys.modules.get("numpy")
    of_cuda, of_torch, of_python = cuda.random_states(), torch.get_rng_state(), random.getstate()
    of_numpy = numpy.random.get_state() if numpy is not None else None

    def put_back() -> None:
        cuda.set_random_states(of_cuda)
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)

    return put_back


def _restore_process(path: list[str], environment: dict[str, str]) -> None:
    sys.path[:] = path
    if dict(os.environ) != environment:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def suppress_output() -> Iterator[None]:
    """Drop what the block prints: exporters print their graphs to stderr if they refuse."""
    output = _Bounded()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield


# Global settings that a forward may change.
SETTINGS: Mapping[str, cuda.Switch] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype, None),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled, None),
    "number of threads": (torch.get_num_threads, torch.set_num_threads, 1),
    "default device": (default_device, set_default_device, None),
    "flushed denormals": (lambda: sys.float_info.min / 2 == 0.0, torch.set_flush_denormal, False),
}
_SWITCHES: tuple[cuda.Switch, ...] = (
    *SETTINGS.values(),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, None),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled, None),
    (os.getcwd, os.chdir, None),
)


def settings_now(device: str) -> tuple[str, ...]:
    """Return the user's global settings of torch, as texts that are the same in every process."""
    with without_warnings():
        switches = [*_SWITCHES, *cuda.switches(device)]
        return tuple(
            repr(read()) for read, _, value in switches if value is None and read is not os.getcwd
        )


@contextmanager
def _set(
    read: Callable[[], Any], write: Callable[[Any], object], value: Any
) -> Generator[None, None, None]:
    kept = read()
    write(value)
    try:
        yield
    finally:
        write(kept)


def doubles_by_default() -> AbstractContextManager[None]:
    """Make float64 the dtype of the tensors that the block makes of Python numbers."""
    return _set(torch.get_default_dtype, torch.set_default_dtype, torch.float64)


def plain_attention() -> AbstractContextManager[None]:
    """Keep attention from its fast path, the fused kernels and nested tensors of eval mode."""
    attention = torch.backends.mha
    return _set(attention.get_fastpath_enabled, attention.set_fastpath_enabled, False)


def steps_of_attention_in_half() -> AbstractContextManager[None]:
    """Round each step of attention in half precision where it is not computed by one kernel."""
    ours = torch.backends.cuda  # for the CPU as well
    allow = ours.allow_fp16_bf16_reduction_math_sdp
    return _set(ours.fp16_bf16_reduction_math_sdp_allowed, allow, True)


@contextmanager
def torch_globals(device: str) -> Iterator[None]:
    with without_warnings():  # torch 2.9 warns at each read of allow_tf32
        cudas = cuda.switches(device)
        users = [(read, write, read()) for read, write, _ in (*_SWITCHES, *cudas)]
    checks = [switch for switch in (*_SWITCHES, *cudas) if switch[2] is not None]
    count = len(_SWITCHES)
    _of_cuda.append((users[count:], [switch for switch in cudas if switch[2] is not None]))
    try:
        _write(checks)
        # Calls are made on the CPU, whatever the user's tests default to.
        with torch.device("cpu") if default_device() is not None else contextlib.nullcontext():
            yield
    finally:
        _of_cuda.pop()
        _write(users)


def _write(switches: list[cuda.Switch]) -> None:
    with without_warnings():
        for read, write, value in switches:
            if read() != value:
                write(value)


# The settings of CUDA as the user has them, and as the check has them: for each check that runs in
# this process, the innermost last.
_of_cuda: list[tuple[list[cuda.Switch], list[cuda.Switch]]] = []


@contextmanager
def users_precision() -> Iterator[None]:
    """Put the precision of CUDA (TF32) that the user has set back in the block, during a check."""
    users, checks = _of_cuda[-1] if _of_cuda else ([], [])
    _write(users)
    try:
        yield
    finally:
        _write(checks)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore all warnings in the block, also with ``-W error``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


ModuleCallHandler = Callable[
    [Callable[..., Any], torch.nn.Module, tuple[Any, ...], dict[str, Any]], Any
]


def exports_observed(
    exported: Callable[[Any], None], refused: Callable[[Exception], None]
) -> AbstractContextManager[None]:
    """Call ``exported(program)`` or ``refused(error)`` for each export in the block.

    By replacing ``torch.export.export``: torch.onnx.export hides the programs that it captures.
    """
    real = torch.export.export

    def export(*args: Any, **kwargs: Any) -> Any:
        try:
            program = real(*args, **kwargs)
        except Exception as error:
            refused(error)
            raise
        exported(program)
        return program

    return _set(lambda: real, partial(setattr, torch.export, "export"), export)


@contextmanager
def module_calls_through(handle: ModuleCallHandler) -> Iterator[None]:
    """Replace each call of a module in the block by ``handle(real, module, args, kwargs)``.

    ``real`` is the call itself. By replacing ``Module.__call__``: a hook could not run the call.
    """
    real: Callable[..., Any] = torch.nn.Module.__call__
    active = True

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # pytest shows the user's frames alone
        return handle(real, module, args, kwargs) if active else real(module, *args, **kwargs)

    torch.nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        # The block may have replaced it too, and may restore this one later: then it does nothing.
        active = False
        if torch.nn.Module.__call__ is call:
            torch.nn.Module.__call__ = real  # type: ignore[method-assign]


@contextmanager
def compiling_nothing() -> Iterator[None]:
    """Run as written what torch.compile compiled.

    Code that was compiled while a mode sees its operators would be used again without the mode, and
    fail. For the same reason, if the block loads torch.compile's machinery, drop what it compiled.
    """
    if dynamo_is_loaded():
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    try:
        yield
    finally:
        if dynamo_is_loaded():
            torch.compiler.reset()


# -- the mode of a call ----------------------------------------------------------------------------

WITHOUT_AUTOCAST = (
    "the test calls the module under torch.autocast, and eager, export and artifact run without: "
    "to check what it computes there, enter autocast in forward"
)


class GradMode(enum.Enum):
    """A grad mode; its value says in words how a call is made in it.

    Eager is called and exported in the mode of the user's own call, artifacts run without
    gradients, as they are served.
    """

    GRAD = "with gradients"
    NO_GRAD = "under torch.no_grad()"
    INFERENCE = "under torch.inference_mode()"

    @classmethod
    def current(cls) -> GradMode:
        if torch.is_inference_mode_enabled():
            return cls.INFERENCE
        return cls.GRAD if torch.is_grad_enabled() else cls.NO_GRAD

    @contextmanager
    def entered(self) -> Iterator[None]:
        with (
            torch.inference_mode(self is GradMode.INFERENCE),
            torch.set_grad_enabled(self is GradMode.GRAD),
        ):
            yield


def outside_inference_mode() -> AbstractContextManager[None]:
    """Leave inference mode for the block: tensors made in it do not count what is written to them.

    Any other mode stays.
    """
    inside = torch.is_inference_mode_enabled()
    return torch.inference_mode(False) if inside else contextlib.nullcontext()


def under_autocast() -> tuple[str, ...]:
    """Return the types of devices for which this thread is under ``torch.autocast``."""
    return tuple(kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


@contextmanager
def outside_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in under_autocast():
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
