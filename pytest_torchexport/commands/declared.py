"""Read an input that is written in one argument: ``x=float32[batch=2,3]{-1..1}``.

Separate from the command, and without torch: a mistake in it is told before torch is imported.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_torchexport.commands.shell import CommandError
from pytest_torchexport.config.validate import nearest

if TYPE_CHECKING:
    import torch

FLOATS = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
# In one tensor: 4 GB of float32, of which a check makes several copies.
MOST_NUMBERS = 10**9
LEGAL = (
    "legal: float32[2,3,32,32], a dim with a name in float32[batch=2,3], values in a range in "
    "int64[2,5]{0..99}, a Python value such as 0.5 or True, each also behind a name: x=float32[2]"
)

_NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<rest>[^=].*)", re.DOTALL)
_TENSOR = re.compile(
    r"(?P<dtype>[A-Za-z_]\w*)\s*\[(?P<axes>[^\]]*)\]\s*(?:\{(?P<values>[^}]*)\})?\s*"
)
_AXIS = re.compile(r"(?:(?P<dim>[A-Za-z_]\w*)=)?(?P<size>\d+)")


@dataclass(frozen=True, kw_only=True)
class TensorInput:
    """A tensor to draw. ``dims``: a name for each axis that has one, else ``""``."""

    dtype: str
    sizes: tuple[int, ...]
    dims: tuple[str, ...]
    values: tuple[float, float] | None = None

    @property
    def shape(self) -> str:
        """The shape as the marker takes it: ``batch 3``; empty if no dim has a name."""
        if not any(self.dims):
            return ""
        axes = zip(self.dims, self.sizes, strict=True)
        return " ".join(dim or str(size) for dim, size in axes)

    def drawn(self, generator: torch.Generator) -> torch.Tensor:
        """Return such a tensor with random values."""
        import torch

        dtype = getattr(torch, self.dtype)
        if self.dtype in INTEGERS and self.values is not None:
            first, last = map(int, self.values)
            return torch.randint(first, last + 1, self.sizes, generator=generator, dtype=dtype)
        if self.dtype == "bool":
            return torch.randint(0, 2, self.sizes, generator=generator).bool()
        if self.values is not None:
            low, high = self.values
            drawn = torch.rand(self.sizes, generator=generator, dtype=torch.float64)
            return (low + drawn * (high - low)).to(dtype)
        return torch.randn(self.sizes, generator=generator, dtype=dtype)

    @property
    def source(self) -> str:
        """The expression of Python that makes one."""
        sizes = f"({', '.join(map(str, self.sizes))}{',' if len(self.sizes) == 1 else ''})"
        dtype = "" if self.dtype == "float32" else f", dtype=torch.{self.dtype}"
        if self.dtype in INTEGERS and self.values is not None:
            first, last = map(int, self.values)
            return f"torch.randint({first}, {last + 1}, {sizes}{dtype})"
        if self.dtype == "bool":
            return f"torch.randint(0, 2, {sizes}).bool()"
        if self.values is not None:
            low, high = self.values
            return f"torch.empty({sizes}{dtype}).uniform_({low}, {high})"
        return f"torch.randn({sizes}{dtype})"


@dataclass(frozen=True, kw_only=True)
class Input:
    """One argument of ``forward``. ``name``: empty for one that is given by position."""

    name: str
    value: TensorInput | Any

    def made(self, generator: torch.Generator) -> Any:
        """Return the argument's value."""
        return self.value.drawn(generator) if isinstance(self.value, TensorInput) else self.value

    @property
    def source(self) -> str:
        """The argument as it is written in a call."""
        made = self.value.source if isinstance(self.value, TensorInput) else repr(self.value)
        return f"{self.name}={made}" if self.name else made


def parse_input(text: str) -> Input:
    """Return the input that a text declares. Raises CommandError with what is legal."""
    named = _NAMED.fullmatch(text.strip())
    name, rest = (named["name"], named["rest"]) if named else ("", text.strip())
    tensor = _TENSOR.fullmatch(rest)
    # A list of Python begins with its bracket, so a word before one is a dtype.
    if tensor is not None:
        return Input(name=name, value=_tensor(tensor, text))
    try:
        return Input(name=name, value=ast.literal_eval(rest))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise CommandError(f"--input {text!r} is no input; {LEGAL}") from None


def _tensor(found: re.Match[str], text: str) -> TensorInput:
    dtype = found["dtype"]
    if dtype not in DTYPES:
        raise CommandError(
            f"--input {text!r}: {dtype!r} is not a dtype; legal: {', '.join(DTYPES)}."
            f"{nearest(dtype, DTYPES)}"
        )
    axes = [_AXIS.fullmatch(axis.strip()) for axis in found["axes"].split(",")]
    if found["axes"].strip() and None in axes:
        raise CommandError(
            f"--input {text!r}: [{found['axes']}] is no shape of sizes and named sizes; {LEGAL}"
        )
    given = [axis for axis in axes if axis is not None]
    if math.prod(int(axis["size"]) for axis in given) > MOST_NUMBERS:
        raise CommandError(f"--input {text!r}: more than {MOST_NUMBERS} numbers")
    values = _values(found["values"], dtype, text)
    if values is None and dtype in INTEGERS:
        raise CommandError(
            f"--input {text!r}: say which integers are legal, for example {dtype}"
            f"[{found['axes']}]{{0..99}} for the indices of an embedding of 100 rows"
        )
    return TensorInput(
        dtype=dtype,
        sizes=tuple(int(axis["size"]) for axis in given),
        dims=tuple(axis["dim"] or "" for axis in given),
        values=values,
    )


def _values(text: str | None, dtype: str, whole: str) -> tuple[float, float] | None:
    if text is None:
        return None
    number = int if dtype in INTEGERS else float
    try:
        low, high = map(number, text.split(".."))
    except ValueError:
        low, high = 1, 0
    if not low <= high or dtype == "bool" or dtype.startswith("complex"):
        raise CommandError(
            f"--input {whole!r}: {{{text}}} is no range of {dtype}, low..high; {LEGAL}"
        )
    return low, high
