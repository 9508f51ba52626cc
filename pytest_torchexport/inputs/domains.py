"""The values that a leaf may take: inferred from the example, or given by the user's ``values``.

Separate from shapes, as in Hypothesis: the same domain serves every size. Only an index has its
values bounded by the size of another input.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any, Literal

import torch

from pytest_torchexport.config.options import REGIONS
from pytest_torchexport.results.failures import SpecError

Kind = Literal["float", "int", "bool"]
# What masks of a kind hold.
_IN_MASKS = {"float": ("zero", "nonzero"), "int": ("0", "1"), "bool": ("False", "True")}
# A smaller triangle may be one by chance.
CAUSAL = 3
# A mask that is added leaves out what it adds this or less to.
ADDED = -1e4


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Legal values of one tensor.

    ``low`` and ``high`` are inclusive; None means unbounded (floats only). ``scale`` is the root
    mean square of the example, or 1 if that is zero. ``reach``: the least and the largest number of
    several examples. ``choices``, if not empty, are the only legal
    values. ``elements`` is a Hypothesis strategy for single elements; ``choices`` are then some of
    them, for the calls that Hypothesis does not draw. Each row along the last axis of a mask has
    a nonzero if ``rows_keep`` is True, a zero if it is False. ``triangle`` are the values of a
    causal mask: up to the diagonal, and above it. ``special`` are further legal values, those of
    the user's words. ``declared`` says that the user gave the values, ``like`` what they are like
    if not.
    """

    kind: Kind
    low: float | int | None = None
    high: float | int | None = None
    scale: float = 1.0
    reach: tuple[float, float] = (0.0, 0.0)
    choices: tuple[Any, ...] = ()
    elements: Any = None
    rows_keep: bool | None = None
    triangle: tuple[Any, Any] | None = None
    special: tuple[float, ...] = ()
    declared: bool = False
    like: str = "as in the example"

    def ends(self, largest: float) -> tuple[float, float]:
        """Return the ends of its range; if it has none, ``largest``, or how far it reaches."""
        least, most = self.reach
        low = min(-largest, least) if self.low is None else float(self.low)
        return low, max(largest, most, low) if self.high is None else float(self.high)

    def describe(self) -> str:
        """Return words like ``0..99``, ``[0, 1]``, ``not negative`` or ``one of 1, 2``."""
        if self.triangle is not None:
            below, above = self.triangle
            words = f"{above} above the diagonal and {below} elsewhere"
        elif self.elements is not None:
            words = "from a strategy"
        elif self.choices:
            words = f"one of {', '.join(map(str, self.choices))}"
        elif self.kind == "bool":
            words = "False or True"
        elif self.kind == "int":
            words = f"{self.low}..{self.high}"
        elif self.low is None and self.high is None:
            words = f"about +-{self.scale:.3g}"
        elif self.low == 0 and self.high is None:
            words = "not negative"
        else:
            low = "-inf" if self.low is None else self.low
            words = f"[{low}, {'inf' if self.high is None else self.high}]"
        more = f" or {', '.join(f'{number:g}' for number in self.special)}" if self.special else ""
        if self.rows_keep is not None:
            words += f", a {_IN_MASKS[self.kind][self.rows_keep]} in each row"
        return words + more


def infer(*examples: torch.Tensor) -> Domain:
    """Return the domain that examples alone suggest.

    Integers stay between the examples' minimum and maximum, but for those of an image: bytes that
    reach the upper half of their range, or are all the same, may be any. Masks stay such: of bools,
    of 0 and 1, and of 0 and a number like -inf that is added to what is left out. A causal mask
    stays causal, and rows that all keep something keep something. Non-negative floats and floats in
    [0, 1] stay such.
    """
    values = [example.detach().cpu() for example in examples]
    first = values[0]
    mask = _masks(values)
    if mask is not None:
        return mask
    if not (first.is_floating_point() or first.is_complex()):
        ends = reach_of(values)
        filled = any(value.numel() for value in values)
        if first.dtype == torch.uint8 and filled and (ends[1] >= 128 or ends[0] == ends[1]):
            return Domain(kind="int", low=0, high=255, like="all that uint8 holds")
        return Domain(kind="int", low=int(ends[0]), high=int(ends[1]))
    # One after the other: a hundred stored inputs take memory enough.
    squares = [(float(numbers.square().sum()), numbers.numel()) for numbers in _finite(values)]
    count = sum(number for _, number in squares)
    if not count:
        return Domain(kind="float")
    scale = math.sqrt(sum(square for square, _ in squares) / count) or 1.0
    least, most = reach_of(values)
    low = 0.0 if least >= 0 and not first.is_complex() else None
    high = 1.0 if low is not None and most <= 1 else None
    return Domain(kind="float", low=low, high=high, scale=scale)


def _finite(values: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the finite numbers of each tensor, of complex ones both parts."""
    for value in values:
        plain = value.detach().resolve_conj()
        numbers = torch.view_as_real(plain) if plain.is_complex() else plain
        wide = numbers.double() if numbers.is_floating_point() else numbers.to(torch.int64)
        yield wide[torch.isfinite(wide)]


def reach_of(values: Iterable[torch.Tensor]) -> tuple[float, float]:
    """Return the least and the largest finite number of tensors; zeros if there is none."""
    ends = [numbers.aminmax() for numbers in _finite(values) if numbers.numel()]
    least = min((end.min.item() for end in ends), default=0)
    return least, max((end.max.item() for end in ends), default=0)


def _masks(examples: Sequence[torch.Tensor]) -> Domain | None:
    first = examples[0]
    filled = [each for each in examples if each.numel()]
    zeros = [each == 0 for each in filled]
    if first.dtype == torch.bool:
        kept = not all(map(_marks_what_is_left_out, examples))
        domain = Domain(kind="bool", low=0, high=1)
    elif first.is_complex() or not any(map(torch.any, zeros)) or all(map(torch.all, zeros)):
        return None
    elif all(bool((zero | (each == 1)).all()) for zero, each in zip(zeros, filled, strict=True)):
        kept = True
        domain = Domain(kind="int", low=0, high=1)
        if first.is_floating_point():
            domain = Domain(kind="float", low=0, high=1, choices=(0.0, 1.0))
    else:
        kept = False
        lowest = min(float(each.min()) for each in filled) if first.is_floating_point() else 0.0
        others = zip(zeros, filled, strict=True)
        if lowest > ADDED or any(bool((~zero & (each != lowest)).any()) for zero, each in others):
            return None
        domain = Domain(kind="float", high=0.0, choices=(0.0, lowest))
    triangles = {_triangle(value) for value in examples}
    if len(triangles) == 1 and None not in triangles:
        return dataclasses.replace(domain, triangle=triangles.pop())
    rows = all(value.dim() and bool(((value != 0) == kept).any(-1).all()) for value in examples)
    return dataclasses.replace(domain, rows_keep=kept if rows and filled else None)


def _marks_what_is_left_out(mask: torch.Tensor) -> bool:
    """Return True if True marks padding: the first of each row is False, or all of some row are.

    The other way round, nothing would be left of such a row.
    """
    if mask.dim() < 2 or mask.shape[-1] < 2:
        return False
    return not bool(mask[..., 0].any()) or not bool(mask.any(-1).all())


def _triangle(mask: torch.Tensor) -> tuple[Any, Any] | None:
    """Return the values of a causal mask, up to the diagonal and above it; None if it is none."""
    square = mask.dim() >= 2 and mask.shape[-2] == mask.shape[-1] >= CAUSAL
    if not square or not mask.numel():
        return None
    first = mask.reshape(-1, *mask.shape[-2:])[0]
    below, above = first[-1, 0], first[0, -1]
    inside = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    causal = torch.where(inside, below, above).expand_as(mask)
    return (below.item(), above.item()) if below != above and torch.equal(mask, causal) else None


# -- what the user says ----------------------------------------------------------------------------


def declared(value: Any, example: torch.Tensor, path: str) -> Domain:
    """Return the domain that the user's ``values`` give for a leaf.

    Raises SpecError if the leaf's dtype cannot hold them, or if a strategy raises or gives none;
    drawing from the domain's ``elements`` does too.
    """
    base = dataclasses.replace(infer(example), declared=True, rows_keep=None, triangle=None)
    if isinstance(value, tuple):
        ends = tuple(item for item in value if not isinstance(item, str))
        domain = _between(ends[0], ends[1], base, example, path) if ends else base
        special = _special(value[len(ends) :], example.dtype, path)
        return dataclasses.replace(domain, special=special)
    held = partial(_held, example=example, path=path)
    if isinstance(value, list):
        return dataclasses.replace(base, choices=tuple(map(held, value)))
    elements, some = _drawn(value, path, held)
    return dataclasses.replace(base, choices=tuple(some), elements=elements)


def of_argument(value: Any, example: Any, path: str) -> Any:
    """Return the user's ``values`` for a Python argument: a list, a range or a strategy.

    The numbers of words follow the ends of a range, or the example in a list. Raises SpecError if
    they hold no value for it; drawing from the strategy does too.
    """
    if isinstance(value, (list, NoneType)):
        return value
    if not isinstance(value, tuple):
        return _drawn(value, path, lambda one: one)[0]
    words = tuple(item for item in value if isinstance(item, str))
    # The types in which a program holds Python numbers.
    dtype = {int: torch.int64, float: torch.float64}.get(type(example), torch.bool)
    special = _special(words, dtype, path)
    if len(words) == len(value):
        return [example, *special]
    low, high = value[:2]
    if isinstance(example, int) and not isinstance(example, bool):
        finite = max(abs(low), abs(high)) < math.inf
        if not finite or math.ceil(low) > math.floor(high):
            raise SpecError(f"values: {path!r} is an int, and ({low}, {high}) is no range of these")
    elif any(sys.float_info.max < abs(end) < math.inf for end in (low, high)):
        raise SpecError(f"values: {path!r} is no int, and a float cannot hold ({low}, {high})")
    return (low, high, *special)


def _special(words: tuple[str, ...], dtype: torch.dtype, path: str) -> tuple[float, ...]:
    """Return the numbers of the user's words. Raises SpecError for one that the dtype lacks."""
    for word in words:
        if not numbers_of([word], dtype):
            legal = ", ".join(known for known in REGIONS if numbers_of([known], dtype))
            name = str(dtype).removeprefix("torch.")
            raise SpecError(
                f"values: {path!r} is {name}, which has no {word!r}; legal: {legal or 'none'}"
            )
    return numbers_of(words, dtype)


def _drawn(strategy: Any, path: str, taken: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
    """Return a user's strategy with ``taken`` called on each value, and some of its values."""
    from pytest_torchexport.inputs.drawing import given_by_the_user

    return given_by_the_user(strategy, path, taken)


def _between(low: Any, high: Any, base: Domain, example: torch.Tensor, path: str) -> Domain:
    low, high = (_held(end, example=example, path=path) for end in (low, high))
    if base.kind == "int":
        return dataclasses.replace(base, low=int(low), high=int(high))
    scale = base.scale
    if math.isfinite(low) and math.isfinite(high):
        scale = float(max(abs(low), abs(high)) or 1.0)
    low, high = (float(end) if math.isfinite(end) else None for end in (low, high))
    return dataclasses.replace(base, scale=scale, low=low, high=high)


def _held(value: Any, *, example: torch.Tensor, path: str) -> Any:
    """Return a user's number as the leaf's dtype takes it. Raises SpecError if it does not."""
    of_numpy = hasattr(value, "item") and not isinstance(value, torch.Tensor)
    number: Any = value.item() if of_numpy else value
    kinds: Any = (bool, int, float, *([complex] if example.is_complex() else []))
    if not isinstance(number, kinds):
        raise SpecError(
            f"values: {path!r} is a tensor, and {number!r} is no number to fill it with"
        )
    dtype = example.dtype
    if example.is_floating_point() or example.is_complex():
        most = torch.finfo(dtype).max
        parts = (number.real, number.imag) if isinstance(number, complex) else (number,)
        held = not any(most < abs(part) < math.inf for part in parts)
        legal = f"{-most}..{most}, infinity and nan"
        # torch takes whole numbers for floats only as far as int64 goes.
        large = isinstance(number, int) and abs(number) >= 2**63
    else:
        info = None if dtype == torch.bool else torch.iinfo(dtype)
        # Beyond int64 torch neither draws nor compares.
        low, high = (0, 1) if info is None else (info.min, min(info.max, 2**63 - 1))
        held = abs(number) < math.inf and number == int(number) and low <= number <= high
        legal, large = f"{low}..{high}", False
    if not held:
        name = str(dtype).removeprefix("torch.")
        raise SpecError(
            f"values: {path!r} is {name}, which cannot hold {number!r:.60}; legal: {legal}"
        )
    return float(number) if large else number


# Integers that another type does not hold: int32, uint32, float32 and float64.
_LIMITS = (2**31 - 1, 2**31, 2**31 + 1, -(2**31), -(2**31) - 1, 2**32, 2**24 + 1, 2**53 + 1)


def numbers_of(words: Iterable[str], dtype: torch.dtype) -> tuple[float, ...]:
    """Return the different numbers of some words that a dtype holds; ``edges`` are those of all."""
    known: dict[str, tuple[float, ...]] = {}
    if dtype.is_floating_point or dtype.is_complex:
        facts = torch.finfo(dtype)
        small = (facts.tiny * facts.eps, facts.tiny / 2)
        known = {
            "nan": (math.nan,),
            "inf": (math.inf, -math.inf),
            "zero": (0.0, -0.0),
            "denormal": tuple(sign * size for size in small for sign in (1, -1)),
        }
        for word, numbers in known.items():
            held = torch.tensor(numbers, dtype=torch.float64).to(dtype)
            reals = (held.real if held.is_complex() else held).tolist()
            pairs = zip(numbers, reals, strict=True)
            known[word] = tuple(number for number, real in pairs if is_among(real, (number,)))
    elif dtype != torch.bool:
        whole = torch.iinfo(dtype)
        # Tensors of integers are made in int64.
        low, high = max(whole.min, -(2**63)), min(whole.max, 2**63 - 1)
        limits = dict.fromkeys((low, low + 1, high - 1, high, *_LIMITS))
        known = {"limits": tuple(number for number in limits if low <= number <= high)}
    known["edges"] = tuple(number for numbers in known.values() for number in numbers)
    different = {str(number): number for word in words for number in known.get(word, ())}
    return tuple(different.values())


def is_among(number: float, others: Iterable[float]) -> bool:
    """Return True if a number is one of the others: NaN is itself, and -0.0 is not 0.0."""
    return str(number) in map(str, others)


# -- numbers that index another input --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Index:
    """Whole numbers below the size of dimension 0 of the input ``into``.

    ``ordered``: they begin with 0 and never fall. ``whole``: the last one is the size itself.
    """

    into: str
    ordered: bool = False
    whole: bool = False

    def fitted(self, values: torch.Tensor, size: int) -> torch.Tensor:
        values = values.clamp(max=max(size - (not self.whole), 0))
        if not self.ordered or not values.numel():
            return values
        values = values.sort().values
        values[0] = 0
        if self.whole and len(values) > 1:
            values[-1] = size
        return values


# The types of integers that index.
IDS = (torch.int32, torch.int64)


def index_of(path: str, tensors: Mapping[str, torch.Tensor]) -> Index | None:
    """Return the input that the integers of another one index, or None if they seem to index none.

    That is the first other input whose size is above their largest, but at most about twice it. If
    both have as many rows, which may be those of a batch, the largest must be the last index, and
    they are no offsets: labels that happen to rise look alike. A mere count, ``0, 1, 2``, is taken
    for offsets beside a row of integers, of as many too, as an EmbeddingBag takes: it stays right
    as a count.
    Zeros and ones alone are the flags of a mask.
    """
    values = tensors[path]
    if values.dtype not in IDS or not values.numel():
        return None
    if int(values.min()) < 0 or int(values.max()) < 2:
        return None
    largest = int(values.max())
    steps = values.diff() if values.dim() == 1 else values.new_full((1,), -1)
    rising = values.flatten()[0] == 0 and bool((steps >= 0).all())
    counted = rising and bool((steps == 1).all())
    for other, tensor in tensors.items():
        size = tensor.shape[0] if tensor.dim() and other != path else 0
        beside = values.shape[:1] == tensor.shape[:1]
        if counted and tensor.dim() == 1 and tensor.dtype in IDS and largest < size:
            return Index(into=other, ordered=True)
        ordered = bool(rising) and not counted and not beside
        whole = ordered and largest == size
        least = size - 1 if beside else size // 2
        if size > 1 and (whole or least <= largest < size):
            return Index(into=other, ordered=ordered, whole=whole)
    return None
