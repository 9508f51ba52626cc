"""Models that an artifact differs from on calls that are rarely drawn, for `benchmarks/reach.py`.

The witnesses of a model are rows of calls. The last models of each family are healthy kin: their
witnesses show nothing. ``either`` is a fault of the artifact alone.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from families import Calls, Models, given
from torch import Tensor, nn, where
from zoo.row import Buffer, equal_rows, filled, normal, whole

MODELS = Models()
TARGETS = ("trace", "export", "onnx")
X, IDS = normal(4, 3), whole(0, 99, 4, 3)
LOW, HIGH = filled(0.1, 4, 3), filled(4.0, 4, 3)
LIMIT, RARE = 25, {137: 2.0}


def each(*inputs: Any) -> tuple[Calls, ...]:
    """Return a row for each input: a call with it alone."""
    return tuple(((x,),) for x in inputs)


def again(times: int, x: Tensor) -> tuple[Calls, ...]:
    """Return a row of equal calls."""
    return (((x,),) * times,)


def either(eager: Any, artifact: Any) -> Any:
    """Return what eager computes, or, while it is exported, what the artifact is to compute."""
    exported = torch.jit.is_tracing() or torch.compiler.is_exporting()
    return artifact if exported or torch.compiler.is_compiling() else eager


def batches(most: int, *sizes: int) -> dict[str, Any]:
    """Return the fields of a model that takes up to so many rows, with a call for each size."""
    options = {"shapes": {"x": "batch 3"}, "dims": {"batch": (1, most)}}
    return {"options": options, "witnesses": each(*(normal(size, 3) for size in sizes))}


# -- state that acts after many calls, or after some of a kind -------------------------------------


COUNT = {"count": Buffer(torch.zeros(()))}


@MODELS.family("state", targets=TARGETS, inputs=(X,), witnesses=again(64, X))
class State:
    @given(has={"n": 0})
    def over_twelve(self, x):
        self.n += 1
        return x * 2 if self.n > 12 else x

    @given(has={"last": lambda: deque(maxlen=16)})
    def full_deque(self, x):
        self.last.append(1)
        return x + 1 if len(self.last) == self.last.maxlen else x

    @given(has=COUNT)
    def buffer_over_a_limit(self, x):
        self.count.add_(1)
        return where(self.count > LIMIT, -x, x)

    @given(has={"ring": Buffer(torch.zeros(15, 3))})
    def oldest_of_a_ring(self, x):
        out = x + self.ring[0]
        self.ring.copy_(torch.cat([self.ring[1:], x.mean(0, keepdim=True)]))
        return out

    @given(has={"scales": [1.0] * 13 + [5.0], "at": 0})
    def cycles(self, x):
        scale = self.scales[self.at]
        self.at = (self.at + 1) % len(self.scales)
        return x * scale

    @given(has={"t": 0.0})
    def tenths(self, x):
        self.t += 0.1
        return x * 2 if self.t > 2.05 else x

    @given(has={"n": 0}, witnesses=again(3, normal(8, 3)))
    def third_large_batch(self, x):
        if x.shape[0] > 6:
            self.n += 1
        return x * 2 if self.n >= 3 else x

    @given(has=COUNT, inputs=(LOW,), witnesses=again(4, LOW + 2))
    def third_high_mean_in_a_row(self, x):
        self.count.copy_(where(x.mean() > 0.5, self.count + 1, torch.zeros(())))
        return where(self.count >= 3, -x, x)

    @given(has={"n": 0}, inputs=(LOW,), witnesses=again(4, HIGH), targets=("trace",))
    def third_high_value(self, x):
        if x.max() > 3:
            self.n += 1
        return -x if self.n >= 3 else x

    @given(has=COUNT, inputs=(LOW,), witnesses=again(6, -HIGH))
    def fifth_negative_in_a_row(self, x):
        low = (x < 0).all().float()
        self.count.copy_((self.count + low) * low)
        return where(self.count >= 5, x * 10, x)

    @given(has={"n": 0})
    def kin_count_is_not_used(self, x):
        self.n += 1
        return x * 2

    @given(has={"n": 0})
    def kin_both_sides_are_equal(self, x):
        self.n += 1
        return x + x if self.n > 9 else x * 2

    @given(has={"mean": Buffer(torch.zeros(3), persistent=False)})
    def kin_scratch(self, x):
        self.mean.copy_(x.mean(0))
        return x - self.mean


# -- exceptions as branches ------------------------------------------------------------------------


def limited(size):
    if size > 5:
        raise ValueError(size)
    return 2.0


def letter(place):
    try:
        return "abcdefg"[place]
    except IndexError:
        return None


@MODELS.family("exceptions", targets=TARGETS, inputs=(X,), **batches(8, 2, 5, 7))
class Exceptions:
    @given(has={"table": {4: 1.0, 5: 2.0}})
    def key(self, x):
        try:
            return x * self.table[x.shape[0]]
        except KeyError:
            return x * 9

    @given(has={"sizes": [3, 4, 6]})
    def not_in_a_list(self, x):
        try:
            return x * self.sizes.index(x.shape[0])
        except ValueError:
            return x * 9

    def of_a_function(self, x):
        try:
            return x * limited(x.shape[0])
        except ValueError:
            return -x

    @given(**batches(8, 2, 5, 8))
    def view(self, x):
        try:
            return x.view(-1, 4, 3).sum(1)
        except RuntimeError:
            return x

    @given(has={"w4": 2.0, "w5": 3.0})
    def no_attribute(self, x):
        return x * getattr(self, "w" + str(x.shape[0]), 5.0)

    @given(has={"table": {(137, 3): 2.0}}, **batches(300, 137))
    def rare_tuple(self, x):
        try:
            return x * self.table[tuple(x.shape)]
        except KeyError:
            return x

    @given(**batches(300, 206, 150))
    def inside_a_function(self, x):
        return -x if letter(x.shape[0] - 200) is None else x

    @given(**batches(300, 137))
    def division_by_zero(self, x):
        try:
            return x * (100 // (137 - x.shape[0]) * 0 + 1)
        except ZeroDivisionError:
            return -x

    @given(
        targets=("trace",),
        inputs=(torch.tensor([3, 9, 500, 0]),),
        options={"values": {"x": (0, 1000)}},
        witnesses=each(torch.tensor([137, 9, 500, 0])),
    )
    def rare_value(self, x):
        try:
            return x * RARE[x[0].item()]
        except KeyError:
            return x * 1.0

    @given(**batches(300, 137))
    def kin_fixed_key(self, x):
        try:
            return x * RARE[137]
        except KeyError:
            return x

    def kin_equal_results(self, x):
        try:
            return x.view(-1, 3)
        except RuntimeError:
            return x.reshape(-1, 3)


# -- strings: modes, formats of sizes and values ---------------------------------------------------

MODE = {
    "inputs": (X, "sum"),
    "options": {"values": {"mode": ["sum", "mean", "max"]}},
    "witnesses": (((X, "mean"),), ((X, "max"),)),
}
OF_VALUE = {"targets": ("trace",), "options": {}}


@MODELS.family("strings", targets=TARGETS, inputs=(X,), **batches(300, 137, 4))
class Strings:
    @given(**MODE)
    def mode(self, x, mode: str):
        if mode == "sum":
            return x.sum(1)
        return x.mean(1) if mode == "mean" else x.amax(1)

    @given(has={"table": {"n137": 2.0}})
    def key(self, x):
        return x * self.table.get(f"n{x.shape[0]}", 1.0)

    def equal(self, x):
        return -x if str(x.shape[0]) == "137" else x

    @given(has={"known": {"137x3"}})
    def joined(self, x):
        return -x if "x".join(map(str, x.shape)) in self.known else x

    @given(**batches(300, 16, 4))
    def digits(self, x):
        return -x if len(str(x.shape[0])) > 1 else x

    @given(**batches(300, 7, 4))
    def last_digit(self, x):
        return -x if str(x.shape[0]).endswith("7") else x

    @given(has={"heads": lambda: nn.ModuleDict({k: nn.Linear(3, 3) for k in "012"})})
    def name_of_a_submodule(self, x):
        return self.heads[f"{x.shape[0] % 3}"](x)

    @given(**OF_VALUE, witnesses=each(filled(0.5, 4, 3)))
    def value(self, x):
        return -x if f"{float(x.mean()):.1f}" == "0.5" else x

    @given(inputs=(X, "sum"), witnesses=(((X, "sum"),),), options={})
    def kin_fixed_mode(self, x, mode: str):
        return x.sum(1) if mode == "sum" else x.mean(1)

    @given(has={"table": {"torch.float32 3": 2.0}})
    def kin_fixed_key(self, x):
        return x * self.table.get(f"{x.dtype} {x.shape[1]}", 1.0)


# -- equality with numbers that floats hold exactly ------------------------------------------------


def edge(score: Any, at: float, *witnesses: Tensor, x: Tensor = X, **options: Any) -> Any:
    """Return a forward that has ``>`` where its artifact has ``>=``: a witness is at the edge."""

    def forward(self, x):
        found = self.score(x)
        return where(either(found > self.at, found >= self.at), found + 1, -found)

    has = {"score": lambda: score, "at": at}
    return given(inputs=(x,), witnesses=each(*witnesses), has=has, options=options)(forward)


def with_whole_weights(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randint(-2, 3, weight.shape, generator=generator))
    return layer


LINEAR = with_whole_weights(nn.Linear(3, 4))
TWO_LAYERS = with_whole_weights(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
CONVOLUTION = with_whole_weights(nn.Conv1d(4, 4, 3, padding=1))
EMBEDDING = with_whole_weights(nn.Embedding(100, 4))
GRID = [normal(4, 3, seed=seed).mul(2).round() for seed in range(60)]
HALF, ONE = filled(0.5, 4, 3), filled(1.0, 4, 3)
BOUNDS = torch.tensor([0.0, 1.0, 4.0])


@MODELS.family("equality", targets=TARGETS, inputs=(X,), witnesses=each(HALF, ONE, *GRID))
class Equality:
    input = edge(lambda x: x, 0.5, HALF)
    half = edge(lambda x: x, 0.5, HALF.half(), x=X.half())
    integer = edge(lambda x: x, 3, IDS * 0 + 3, x=IDS)
    far = edge(lambda x: x, 123457, IDS * 0 + 123457, x=IDS, values={"x": (0, 10**6)})
    total = edge(lambda x: x.sum(-1), 1, equal_rows(1.0, 0.0, 0.0))
    square = edge(lambda x: x * x, 4, ONE * 2)
    norm = edge(lambda x: x.norm(dim=-1), 5, equal_rows(3.0, 4.0, 0.0))
    difference = edge(lambda x: x.diff(dim=-1), 1, *GRID)
    spread = edge(lambda x: x.amax(-1) - x.amin(-1), 2, *GRID)
    count = edge(lambda x: (x > 0.3).sum(-1), 2, equal_rows(1.0, 1.0, -1.0))
    softmax = edge(lambda x: x.softmax(-1)[:, :1], 0.5, torch.ones(4, 2), x=normal(4, 2))
    product = edge(lambda x: x[:, :1] * x[:, 1:2], 391, equal_rows(17, 23, 1), x=IDS)
    sum_of_squares = edge(lambda x: (x * x).sum(-1), 25, equal_rows(3, 4, 0), x=whole(0, 9, 4, 3))
    linear = edge(LINEAR, 1, *GRID)
    two_layers = edge(TWO_LAYERS, 3, *GRID)
    convolution = edge(CONVOLUTION, 2, *GRID)
    embedding = edge(lambda x: EMBEDDING(x).sum(1), 5, *(each.abs().long() for each in GRID), x=IDS)

    def floor_for_ceil(self, x):
        return either((x / 0.25).ceil() - 1, (x / 0.25).floor())

    def bucket_of_a_bound(self, x):
        return torch.bucketize(x, BOUNDS, right=either(False, True))

    def last_maximum(self, x):
        return either(x.argmax(-1), 2 - x.flip(-1).argmax(-1))

    def kin_same_condition(self, x):
        return where(either(~(x < 0.5), x >= 0.5), x, -x)

    def kin_continuous(self, x):
        return either(where(x > 0.5, x, filled(0.5, 1)), x.clamp(min=0.5))

    @given(inputs=(IDS,), witnesses=each(whole(3, 4, 4, 3)))
    def kin_next_integer(self, x):
        return where(either(x > 3, x >= 4), x, -x)


# -- NaN where NaN is declared ---------------------------------------------------------------------

ROWS = normal(8, 3)
IMAGE = normal(1, 2, 5, 5)


def with_nans(x: Tensor) -> tuple[Calls, ...]:
    """Return calls with NaN at a random share of the places, at all, and at the first."""
    masks = [normal(*x.shape, seed=seed) > seed / 16 - 1 for seed in range(40)]
    first = torch.arange(x.numel()).reshape(x.shape) == 0
    return each(*(x.masked_fill(mask, torch.nan) for mask in [*masks, x == x, first]))


NANS = {"options": {"values": {"x": "nan"}}, "witnesses": with_nans(X)}
PLACES = normal(2, 3, 3, 2).tanh()


nan, place = given(), given(inputs=(PLACES,), witnesses=with_nans(PLACES))


def sampled(x, mode, padding):
    image = IMAGE.expand(x.shape[0], -1, -1, -1)
    return F.grid_sample(image, x, mode=mode, padding_mode=padding, align_corners=False)


@MODELS.family("nan", targets=TARGETS, inputs=(X,), **NANS)
class Nan:
    bilinear_zeros = place(lambda _, x: sampled(x, "bilinear", "zeros"))
    nearest_border = place(lambda _, x: sampled(x, "nearest", "border"))
    bicubic_reflection = place(lambda _, x: sampled(x, "bicubic", "reflection"))
    embedding = nan(lambda _, x: EMBEDDING(x.long().clamp(0, 7)))
    maximum_index = nan(lambda _, x: ROWS[x.argmax(-1)])
    sort = nan(lambda _, x: x.sort(-1).values)
    top = nan(lambda _, x: x.topk(2, -1).values)
    largest = nan(lambda _, x: x.amax(-1))
    bucket = nan(lambda _, x: torch.bucketize(x, BOUNDS))
    sorted_place = nan(lambda _, x: torch.searchsorted(BOUNDS, x))
    larger = nan(lambda _, x: torch.maximum(x, BOUNDS))
    activations = nan(lambda _, x: F.relu(x) + F.hardtanh(x) + F.relu6(x))
    pool = nan(lambda _, x: F.max_pool1d(x[None], 2))
    sign = nan(lambda _, x: x.sign())
    integer = nan(lambda _, x: x.long())
    kin_replaced = nan(lambda _, x: where(x.isnan(), BOUNDS, x))
    kin_bucket_of_zero = nan(lambda _, x: ROWS[torch.bucketize(x.nan_to_num(0.0), BOUNDS)])
    kin_equal = nan(lambda _, x: (x == x).float())


# -- constant offsets that values cross ------------------------------------------------------------


def beyond(extra: Any, *calls: Tensor, x: Tensor = X, most: float = 0) -> Any:
    """Return a forward whose artifact lacks an addend, which is not zero on one of the calls.

    Values up to ``most`` are declared; of others, a hundred times the example's are legal.
    """

    def forward(self, x):
        return x + either(self.extra(x), 0)

    low = 0 if x.dtype == torch.int64 else -most
    options = {"values": {"x": (low, most)}} if most else {}
    has = {"extra": lambda: extra}
    return given(inputs=(x,), witnesses=each(*calls), has=has, options=options)(forward)


FAR, NINETY = filled(4999.0, 4, 3), filled(90.0, 4, 3)
ENDS = [NINETY, -NINETY, equal_rows(90.0, -90.0, 90.0), equal_rows(-90.0, -90.0, 90.0)]


@MODELS.family("offset", targets=TARGETS, inputs=(X,), witnesses=each(NINETY))
class Offset:
    clamp = beyond(lambda x: (x - 1000).clamp(min=0), FAR, most=5e3)
    clamp_not_declared = beyond(lambda x: (x - 1000).clamp(min=0), filled(1900.0, 4, 3), x=X * 20)
    step = beyond(lambda x: where(x > 1000, 50.0, 0.0), FAR, most=5e3)
    step_at_the_end = beyond(lambda x: where(x > 4998, 50.0, 0.0), FAR, most=5e3)
    total_of_all = beyond(lambda x: (x.sum() - 1000).relu(), NINETY)
    below = beyond(lambda x: (-30.0 - x).clamp(min=0), -NINETY)
    linear = beyond(lambda x: F.relu(LINEAR(x).abs().sum() - 2000), *ENDS)
    integer = beyond(lambda x: (x - 9999).clamp(min=0) * 50, IDS * 0 + 10**4, x=IDS, most=10**4)
    sigmoid = beyond(lambda x: torch.sigmoid(x - 1000) * 900, FAR, most=5e3)
    sigmoid_of_linear = beyond(lambda x: torch.sigmoid(LINEAR(x)[:, :1] - 100) * 5, *ENDS)
    tanh = beyond(lambda x: torch.tanh(x - 70) * 5 + 5, NINETY)
    softplus = beyond(lambda x: F.softplus(x - 80), NINETY)
    elu = beyond(lambda x: F.elu(x - 60) + 1, NINETY)
    gelu = beyond(lambda x: F.gelu(x - 60), NINETY)
    silu = beyond(lambda x: F.silu(x - 60), NINETY)
    error_function = beyond(lambda x: torch.erf(x - 70) + 1, NINETY)
    exponential = beyond(lambda x: (x - 70).exp().clamp(max=5), NINETY)
    softmax = beyond(lambda x: torch.softmax(torch.stack([x, x * 0 + 70]), 0)[0] * 5, NINETY)
    log_of_sum = beyond(lambda x: torch.logaddexp(x, x * 0 + 70) - 70, NINETY)
    kin_sigmoid = beyond(lambda x: (x.sigmoid() - 1.5).relu(), NINETY)

    @given(targets=("trace",), options={"values": {"x": (-5000.0, 5000.0)}}, witnesses=each(FAR))
    def condition(self, x):
        return x * 2 if x.max() > 1000 else x

    @given(inputs=(X, normal(4, 3, seed=1)), witnesses=(((NINETY, NINETY),),))
    def two_inputs(self, x, y):
        return x + either((x * y - 2500).relu(), 0)

    def kin_two_parts(self, x):
        return either(x.clamp(max=50) + (x - 50).relu(), x * 1)


# -- min(k, n), frozen above or below n ------------------------------------------------------------


def sizes(example: int, most: int, *others: int, least: int = 1, **has: Any) -> Any:
    """Give a forward an example of one width, and calls of others."""
    dims = {"batch": (1, 4), "n": (least, most)}
    return given(
        inputs=(normal(2, example),),
        options={"shapes": {"x": "batch n"}, "dims": dims},
        witnesses=each(*(normal(2, other) for other in others)),
        has=has,
    )


@MODELS.family("minimum", targets=TARGETS)
class Minimum:
    @sizes(20, 40, 5, 12)
    def top(self, x):
        return x.topk(min(10, x.size(1)), 1).values

    @sizes(20, 100, 65, 70)
    def slice(self, x):
        return x[:, : min(x.size(1), 64)]

    @sizes(33, 34, 32, 34, least=32)
    def count(self, x):
        return x * torch.arange(min(x.size(1), 33)).sum()

    @sizes(20, 310, 301, positions=Buffer(normal(400)))
    def positions(self, x):
        return x + self.positions[: min(x.size(1), 300)].sum()

    @sizes(20, 40, 9, least=9, bound=10)
    def divisor(self, x):
        return x / min(x.shape[1], self.bound)

    @sizes(60, 100, 49)
    def ternary(self, x):
        n = x.shape[1]
        k = n if n < 50 else 50  # noqa: FURB136
        return x.cumsum(1)[:, k - 1]

    @sizes(20, 40, 5, 30)
    def padding(self, x):
        return F.pad(x, (0, max(0, 10 - x.size(1))))

    @sizes(16, 40, 39, 5, least=2)
    def half(self, x):
        return x[:, : int(min(0.5 * x.size(1), 10))]

    @sizes(16, 40, 39, 5)
    def kin_bounded_index(self, x):
        return x[:, torch.arange(x.size(1)).clamp(max=9)]

    @sizes(16, 40, 39, 5, least=4)
    def kin_top(self, x):
        return x.topk(min(3, x.size(1)), 1).values
