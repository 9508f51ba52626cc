"""Steps that are called in loops, healthy ones and faults: for the tests of ``check_loop``.

A row of HEALTHY is a step, its first call, and what the next step gets. A row of FAULTS is such a
step, an artifact that is wrong as deployed ones are, and what a report has to say of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

TOKENS, WIDE = 24, 8


def next_id(output):
    return output[0][:, -1:].argmax(-1)


def noise(*shape, count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def turned(x, position):
    """Rotate pairs of numbers by their position: x is [batch, time, width]."""
    angle = position[..., None] * torch.tensor([1.0, 0.3, 0.1, 0.03], device=x.device)
    one, other = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDE, WIDE) for _ in range(4))

    def forward(self, x, keys, values, position):
        keys = torch.cat([keys, turned(self.k(x), position)], 1)
        values = torch.cat([values, self.v(x)], 1)
        scores = turned(self.q(x), position) @ keys.transpose(1, 2) * WIDE**-0.5
        return x + self.o(scores.softmax(-1) @ values), keys, values


class Decoder(nn.Module):
    """Two layers of attention with a cache: keys, values, keys, values."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, WIDE)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(WIDE, TOKENS)

    def position(self, ids, past):
        return past.shape[1] + torch.arange(ids.shape[1], device=ids.device)

    def forward(self, ids, past: list[torch.Tensor]):
        x, made = self.embedding(ids), []
        position = self.position(ids, past[0])
        for number, layer in enumerate(self.layers):
            x, keys, values = layer(x, past[2 * number], past[2 * number + 1], position)
            made += [keys, values]
        return self.head(x), made


class Masked(Decoder):
    """It gets a mask of all that it may look at, which is longer than the cache by one."""

    def forward(self, ids, past: list[torch.Tensor], mask):
        logits, made = super().forward(ids, past)
        return logits * mask.mean(-1, keepdim=True)[..., None], made


class Window(Decoder):
    """Its cache is cut at six positions, and a count of all is carried."""

    def forward(self, ids, past: list[torch.Tensor], count):
        x, made = self.embedding(ids), []
        for number, layer in enumerate(self.layers):
            x, keys, values = layer(x, past[2 * number], past[2 * number + 1], count)
            made += [keys[:, -6:], values[:, -6:]]
        return self.head(x), made, count + 1


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(WIDE, WIDE)

    def forward(self, x, h):
        h = self.cell(x, h)
        return h * 2, h


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(WIDE, WIDE, num_layers=2)

    def forward(self, x, state: tuple[torch.Tensor, torch.Tensor]):
        return self.lstm(x, state)


class Stream(nn.Module):
    """A causal convolution of chunks: it carries the end of the chunk before."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 4, 5)

    def forward(self, chunk, left):
        whole = torch.cat([left, chunk], -1)
        return {"sound": self.conv(whole), "left": whole[..., -4:]}


class Ring(nn.Module):
    """A delay line: an index goes round in a buffer."""

    def forward(self, x, ring, index):
        delayed = ring.index_select(1, index)
        ring = ring.scatter(1, index[None].expand(x.shape[0], 1), x)
        return x + 0.5 * delayed, ring, (index + 1) % ring.shape[1]


class Average(nn.Module):
    """A mean over the steps so far, with their count; and a flag that stays once it is set."""

    def forward(self, x, mean, count, over):
        mean = mean + (x - mean) / (count + 1)
        return x - mean, mean, count + 1, over | (x > 1.5)


class Sampler(nn.Module):
    """A step of a diffusion: what is fed again is a function of the output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(WIDE + 1, 16), nn.Tanh(), nn.Linear(16, WIDE))

    def forward(self, x, time):
        return self.net(torch.cat([x, time.expand(x.shape[0], 1)], 1))


class Inside(nn.Module):
    """The state is a buffer of the module: nothing is carried."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(3))

    def forward(self, x):
        self.level.mul_(0.9).add_(x.mean(0))
        return x - self.level


@dataclass(frozen=True, kw_only=True)
class Looped:
    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    carry: Mapping[str, str] = field(default_factory=dict)
    feed: Mapping[str, Any] = field(default_factory=dict)


def cache(length=4, seed=2):
    return noise(1, length, WIDE, count=4, seed=seed)


IDS = torch.tensor([[3]])
PAST = {"output[1]": "past"}
AVERAGED = torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.0]), torch.zeros(2, 3).bool()
ZEROS = torch.zeros(2, 1, WIDE)
HEALTHY = {
    "cache": Looped(make=Decoder, args=(IDS, cache()), carry=PAST, feed={"ids": next_id}),
    "empty cache": Looped(make=Decoder, args=(IDS, cache(0)), carry=PAST, feed={"ids": next_id}),
    "mask": Looped(
        make=Masked,
        args=(IDS, cache(), torch.ones(1, 5)),
        carry=PAST,
        feed={"ids": next_id, "mask": [torch.ones(1, 6 + step) for step in range(31)]},
    ),
    "window": Looped(
        make=Window,
        args=(IDS, cache(6), torch.tensor([9])),
        carry={**PAST, "output[2]": "count"},
        feed={"ids": next_id},
    ),
    "gru": Looped(
        make=Gru,
        args=(torch.ones(2, WIDE), torch.zeros(2, WIDE)),
        carry={"output[1]": "h"},
        feed={"x": noise(2, WIDE)},
    ),
    "lstm": Looped(
        make=Lstm,
        args=(torch.ones(3, 1, WIDE), (ZEROS, ZEROS)),
        carry={"output[1]": "state"},
        feed={"x": noise(3, 1, WIDE)},
    ),
    "stream": Looped(
        make=Stream,
        args=(torch.ones(1, 2, 7), torch.zeros(1, 2, 4)),
        carry={"output['left']": "left"},
        feed={"chunk": noise(1, 2, 7)},
    ),
    "ring": Looped(
        make=Ring,
        args=(torch.ones(3, 1), torch.zeros(3, 5), torch.tensor([0])),
        carry={"output[1]": "ring", "output[2]": "index"},
        feed={"x": noise(3, 1)},
    ),
    "average": Looped(
        make=Average,
        args=AVERAGED,
        carry={"output[1]": "mean", "output[2]": "count", "output[3]": "over"},
        feed={"x": noise(2, 3)},
    ),
    "diffusion": Looped(
        make=Sampler,
        args=(torch.ones(2, WIDE), torch.tensor([[1.0]])),
        carry={"output": "x"},
        feed={"time": [torch.tensor([[1 - step / 16]]) for step in range(1, 16)]},
    ),
    "inside": Looped(make=Inside, args=(torch.ones(2, 3),), feed={"x": noise(2, 3)}),
}


# -- faults ----------------------------------------------------------------------------------------


def of_output(loop, change):
    """Return an artifact whose outputs are changed: ``change`` gets eager's, and the call's."""

    def artifact():
        step = HEALTHY[loop].make().eval()
        return lambda *args: change(step(*copy.deepcopy(args)), *args)

    return artifact


def of_model(loop, **changed):
    """Return an artifact made of other code: methods of the model, or of its layers, are others."""

    def artifact():
        step = HEALTHY[loop].make().eval()
        for name, method in changed.items():
            object.__setattr__(step, name, method.__get__(step))
        return step

    return artifact


def traced(loop):
    """Return the trace of a step at its first call, in which numbers of Python stay as they are."""

    def artifact():
        step, args = FROZEN[loop]().eval(), HEALTHY[loop].args
        return torch.jit.trace(step, args, check_trace=False)

    return artifact


class FrozenPosition(Decoder):
    def position(self, ids, past):
        return torch.tensor([float(past.shape[1])])  # made in Python


class FrozenIndex(Ring):
    def forward(self, x, ring, index):
        index = torch.tensor([int(index)])
        return super().forward(x, ring, index)


class FrozenCount(Average):
    def forward(self, x, mean, count, over):
        return super().forward(x, mean, torch.tensor([float(count)]), over)


FROZEN = {"cache": FrozenPosition, "ring": FrozenIndex, "average": FrozenCount}


def only_once(step):
    """Return a step that keeps its first state, as a server that never resets it."""

    def artifact():
        kept = []
        own = HEALTHY[step].make().eval()

        def run(x, h):
            value = own(x, kept[-1] if kept else h)
            kept.append(value[1])
            return value

        return run

    return artifact


def stale(made):
    return [torch.cat([each[:, :-1], each[:, -2:-1]], 1) for each in made]


def without_rope(output, ids, past):
    """Return keys as they are before they are turned: those of the last position."""
    logits, made = output
    step = HEALTHY["cache"].make().eval()
    keys = step.layers[0].k(step.embedding(ids))
    return logits, [torch.cat([past[0], keys], 1), *made[1:]]


def counted_from(start):
    def position(self, ids, past):
        return start + past.shape[1] + torch.arange(ids.shape[1])

    return position


def within(limit):
    """Fail where a cache of a fixed size is full."""

    def change(output, ids, past):
        if past[0].shape[1] >= limit:
            raise IndexError(f"the cache is full: {limit}")
        return output

    return change


def ahead_in_chunk(output, chunk, left):
    step = HEALTHY["stream"].make().eval()
    return {**output, "sound": step.conv(torch.cat([left[..., 1:], chunk, chunk[..., -1:]], -1))}


def from_step(limit, change):
    """Return a change from the call on at which a carried count is so large."""

    def changed(output, *args):
        return change(output) if float(args[2].max()) >= limit else output

    return changed


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``step`` and ``leaf`` are those that a report has to name, ``failure`` its class."""

    loop: str
    artifact: Callable[[], Any]
    step: int
    leaf: str
    failure: str = "OutputsDiffer"


FAULTS = {
    "stale cache": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *_: (out[0], stale(out[1]))),
        step=1,
        leaf="past[0]",
    ),
    "swapped layers": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *_: (out[0], [*out[1][2:], *out[1][:2]])),
        step=1,
        leaf="past[0]",
    ),
    "keys for values": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *_: (out[0], [*out[1][:2], *out[1][:1:-1]])),
        step=1,
        leaf="past[2]",
    ),
    "one layer's state for both": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *_: (out[0], out[1][:2] * 2)),
        step=1,
        leaf="past[2]",
    ),
    "position off by one": Fault(
        loop="cache", artifact=of_model("cache", position=counted_from(1)), step=1, leaf="output[0]"
    ),
    "keys without rope": Fault(
        loop="cache", artifact=of_output("cache", without_rope), step=1, leaf="past[0]"
    ),
    "cache cut at a length": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *_: (out[0], [k[:, -12:] for k in out[1]])),
        step=9,
        leaf="past[0]",
    ),
    "cache is full": Fault(
        loop="cache",
        artifact=of_output("cache", within(20)),
        step=17,
        leaf="the cache is full",
        failure="ArtifactRaised",
    ),
    "cache not grown": Fault(
        loop="cache",
        artifact=of_output("cache", lambda out, *args: (out[0], args[1])),
        step=1,
        leaf="past[0]",
    ),
    "frozen position": Fault(loop="cache", artifact=traced("cache"), step=2, leaf="output[0]"),
    "mask is frozen": Fault(
        loop="mask",
        artifact=of_output("mask", lambda out, *args: (out[0] * (5 / args[2].shape[1]), out[1])),
        step=2,
        leaf="output[0]",
    ),
    "count is frozen": Fault(
        loop="window",
        artifact=of_output("window", lambda out, *_: (*out[:2], torch.tensor([10]))),
        step=2,
        leaf="count",
    ),
    "state is not reset": Fault(
        loop="gru", artifact=only_once("gru"), step=1, leaf="output[0]", failure="StateDiffers"
    ),
    "state in half precision": Fault(
        loop="gru",
        artifact=of_output("gru", lambda out, *_: (out[0], out[1].half().float())),
        step=1,
        leaf="h",
    ),
    "dtype of the state": Fault(
        loop="gru",
        artifact=of_output("gru", lambda out, *_: (out[0], out[1].double())),
        step=1,
        leaf="h",
    ),
    "drift": Fault(
        loop="average",
        artifact=of_output("average", lambda out, *_: (out[0], out[1] + 8e-6, *out[2:])),
        step=2,
        leaf="mean",
    ),
    "cell for hidden state": Fault(
        loop="lstm",
        artifact=of_output("lstm", lambda out, *_: (out[0], out[1][::-1])),
        step=1,
        leaf="state[0]",
    ),
    "chunk looks ahead": Fault(
        loop="stream",
        artifact=of_output("stream", ahead_in_chunk),
        step=1,
        leaf="output['sound']",
    ),
    "context of the chunk before the last": Fault(
        loop="stream",
        artifact=of_output("stream", lambda out, *args: {**out, "left": args[1]}),
        step=1,
        leaf="left",
    ),
    "ring index off by one": Fault(
        loop="ring",
        artifact=of_output("ring", lambda out, *args: (*out[:2], (args[2] + 1) % 4)),
        step=4,
        leaf="index",
    ),
    "ring index frozen": Fault(loop="ring", artifact=traced("ring"), step=2, leaf="output[0]"),
    "steps counted in the export": Fault(
        loop="average", artifact=traced("average"), step=2, leaf="output[0]"
    ),
    "flag is lost": Fault(
        loop="average",
        artifact=of_output("average", lambda out, x, *_: (*out[:3], x > 1.5)),
        step=6,
        leaf="over",
    ),
    "state is dropped after a while": Fault(
        loop="average",
        artifact=of_output("average", from_step(20, lambda out: (out[0], out[1] * 0, *out[2:]))),
        step=21,
        leaf="mean",
    ),
    "state of the module is not kept": Fault(
        loop="inside",
        artifact=of_output("inside", lambda _, x: x - x.mean(0)),
        step=2,
        leaf="output",
        failure="StateDiffers",
    ),
}


# -- what only looks like a fault ------------------------------------------------------------------


class Tied(Decoder):
    """Two tokens have the same logits, the largest of all."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.head.weight[5] = self.head.weight[3]
            self.head.bias[3] = self.head.bias[5] = 9.0


class Chaos(nn.Module):
    """It makes any rounding as large as its numbers within some twenty steps."""

    def forward(self, x):
        return 3.9 * x * (1 - x)
