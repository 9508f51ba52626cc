"""Branches of whole models: loops ended by data, early exits, routing, decoding, detection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    EQUAL,
    REFUSED,
    UNVERIFIED,
    Buffer,
    baked,
    branch,
    call,
    equal_rows,
    filled,
    has,
    no_construct,
    normal,
    row,
    section,
    undecided,
)

X = call(normal(4, 3))
N = normal(4, 3)
ODD = normal(4, 6)
STATE = (normal(4, 4, seed=1) * 0.5, normal(4, 4, seed=2) * 0.5)
FIXED = {"x": "..."}
WORDS = normal(2, 5, 16)
TIMED = normal(3, 5, 3)
LENGTHS = {
    "shapes": {"x": "batch 5 3", "lengths": "batch"},
    "values": {"lengths": (0, 5)},
}
BOXES = normal(5, 4)
SCORES = torch.tensor([0.1, 0.9, 0.65, 0.3, 0.7])
SHARES = {"scores": (0.0, 1.0)}
OVERLAP = (torch.tensor([0.0, 0.5, 1.5, 2.0]), torch.tensor([1.0, 1.25, 3.0, 2.5]))

section("branches_models", "branches")


# -- loops -----------------------------------------------------------------------------------------


@branch("halve while large", N * 1.5, X, N * 4)
def forward(self, x: Tensor) -> Tensor:
    while x.norm() > 4.0:
        x = x * 0.5
    return x + 1


@branch("newton root", X, N * 0.01, N * 0.2, N * 4)
def forward(self, x: Tensor) -> Tensor:
    target = x.square().sum() + 1
    guess, steps = target, 0
    while bool((guess * guess - target).abs() > 0.05) and steps < 12:
        guess = (guess + target / guess) / 2
        steps += 1
    return x / guess


@branch("fixed point", X, N * 0.05, N * 3)
@has(layer=lambda: nn.Linear(3, 3))
def forward(self, x: Tensor) -> Tensor:
    state = x
    for _ in range(10):
        new = torch.tanh(self.layer(state)) * 0.5
        change = (new - state).abs().amax()
        state = new
        if change < 0.2:
            break
    return state


@branch("collatz steps", torch.tensor(6), torch.tensor(1), torch.tensor(2), values={"n": (1, 16)})
def forward(self, n: Tensor) -> Tensor:
    steps = torch.zeros_like(n)
    while int(n) != 1:
        n = n // 2 if int(n) % 2 == 0 else 3 * n + 1
        steps = steps + 1
    return steps


@branch(
    "repeat by tensor",
    call(N, torch.tensor(2)),
    call(N, torch.tensor(0)),
    call(N, torch.tensor(1)),
    call(N, torch.tensor(3)),
    values={"n": (0, 3)},
    ci="onnx_legacy",
)
def forward(self, x: Tensor, n: Tensor) -> Tensor:
    for _ in range(int(n)):  # here
        x = x * 0.5 + 1
    return x


@row(
    "repeat by mask",
    call(N, torch.tensor(2)),
    call(N, torch.tensor(0)),
    call(N, torch.tensor(3)),
    values={"n": (0, 3)},
    ci="script",
)
def forward(self, x: Tensor, n: Tensor) -> Tensor:
    for step in range(3):
        x = torch.where(step < n, x * 0.5 + 1, x)
    return x


@branch(
    "layers by tensor",
    call(N, torch.tensor(2)),
    call(N, torch.tensor(0)),
    call(N, torch.tensor(4)),
    values={"depth": (0, 4)},
)
@has(layers=lambda: nn.ModuleList(nn.Linear(3, 3) for _ in range(4)))
def forward(self, x: Tensor, depth: Tensor) -> Tensor:
    for place, layer in enumerate(self.layers):
        if place < int(depth):
            x = torch.relu(layer(x)) + x
    return x


@branch(
    "over lengths",
    call(TIMED, torch.tensor([2, 1, 3])),
    call(TIMED, torch.tensor([0, 0, 0])),
    call(TIMED, torch.tensor([1, 0, 1])),
    call(TIMED, torch.tensor([5, 0, 1])),
    **LENGTHS,
)
@has(cell=lambda: nn.GRUCell(3, 4))
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 4)
    for t in range(int(lengths.max())):  # here
        h = torch.where((t < lengths).unsqueeze(1), self.cell(x[:, t], h), h)
    return h


@branch(
    "until lengths",
    call(TIMED, torch.tensor([2, 1, 3])),
    call(TIMED, torch.tensor([0, 0, 0])),
    call(TIMED, torch.tensor([5, 0, 1])),
    **LENGTHS,
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    total = torch.zeros_like(x[:, 0])
    for t in range(5):
        if bool((t >= lengths).all()):
            break
        total = total * 0.5 + x[:, t]
    return total


@branch("ponder", X, N - 3)
@has(step=lambda: nn.Linear(3, 3), halt=lambda: nn.Linear(3, 1))
def forward(self, x: Tensor) -> Tensor:
    """Adaptive computation: steps until the halting probabilities add up to enough."""
    halted = torch.zeros(())
    steps = 0
    while bool(halted < 0.9) and steps < 8:
        x = torch.tanh(self.step(x))
        halted = halted + torch.sigmoid(self.halt(x)).mean()
        steps += 1
    return x * halted


@branch("adds up", X, N - 40)
def forward(self, x: Tensor) -> Tensor:
    """Three turns instead of two if the mean is below -27: no ordinary call has that."""
    total = torch.zeros(())
    while bool(total < 0.9):
        total = total + 0.5 + 0.1 * torch.tanh(x.mean() / 50)
    return x * total


@branch("settles on a root", X, N - 80)
def forward(self, x: Tensor) -> Tensor:
    """Newton's method for numbers from 4 to 6, which take one turn or two."""
    target = 5 + torch.tanh(x.mean() / 50)
    guess = torch.ones(()) * 2
    while bool((guess * guess - target).abs() > 0.003 * target):
        guess = (guess + target / guess) / 2
    return x / guess


@branch("halves the rest", X, N - 60)
def forward(self, x: Tensor) -> Tensor:
    """Halves until little is left: three turns instead of two if the mean is below -24."""
    rest = 1 + 0.4 * torch.sigmoid(-x.mean() / 8 - 3)
    while bool(rest > 0.3):
        rest = rest * 0.5
    return x + rest


@branch("adds up alone", X, EQUAL)
def forward(self, x: Tensor) -> Tensor:
    """No input changes the number of turns."""
    total = torch.zeros(())
    while bool(total < 2):
        total = total + 1
    return x * total


@row("counts turns", X)
def forward(self, x: Tensor) -> Tensor:
    steps = 0
    while steps < x.dim():
        x = torch.tanh(x)
        steps += 1
    return x


@torch.jit.script
def halved(x: Tensor) -> Tensor:
    while bool(x.abs().amax() > 2.0):
        x = x * 0.5
    return x


@row(
    "halve in script",
    N * 1.5,
    X,
    N * 4,
    EQUAL,
    round_trip=True,
    line="while bool(x.abs().amax() > 2.0):",
    ci="trace",
)
def forward(self, x: Tensor) -> Tensor:
    return halved(x) + 1


# -- recurrent steps -------------------------------------------------------------------------------


@branch("resetting step", call(N, *STATE), call(N, STATE[0], STATE[1] * 5))
@has(cell=lambda: nn.LSTMCell(3, 4))
def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
    h, c = self.cell(x, (h, c))
    if c.abs().amax() > 1.2:
        c = torch.zeros_like(c)
    return torch.cat([h, c], dim=1)


@branch("resetting over time", normal(2, 4, 3), normal(2, 4, 3) + 2, shapes={"x": "batch 4 3"})
@has(cell=lambda: nn.GRUCell(3, 4))
def forward(self, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 4)
    for t in range(4):
        h = self.cell(x[:, t], h)
        if x[:, t].mean() > 1.0:
            h = torch.zeros_like(h)
    return h


@branch("controller", call(N * 0.25, N * 0), call(N * 2, N * 0))
@has(gain=Buffer(torch.tensor(0.75)))
def forward(self, error: Tensor, integral: Tensor) -> Tensor:
    """A saturated controller does not integrate further."""
    drive = self.gain * error + integral
    if drive.abs().amax() > 2.0:
        drive = drive.clamp(-2.0, 2.0)
    else:
        integral = integral + 0.1 * error
    return drive + integral


@branch(
    "rolling cache",
    call(normal(4, 3), normal(1, 3, seed=1), torch.tensor(2)),
    call(normal(4, 3), normal(1, 3, seed=1), torch.tensor(4)),
    values={"position": (0, 7)},
)
def forward(self, cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    if int(position) >= 4:
        return torch.cat([cache[1:], new])
    return torch.where((torch.arange(4) == position).unsqueeze(1), new, cache)


# -- attention -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention that clips its scores if one is too large; each block has a limit of its own."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.project = nn.Linear(16, 48)
        self.inner = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, 8)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, dim=2)
        scores = self.heads(q) @ self.heads(k).transpose(2, 3) / 8**0.5
        if scores.max() > self.limit:
            scores = scores.tanh()
        mixed = (scores.softmax(3) @ self.heads(v)).transpose(1, 2).flatten(2)
        return x + torch.relu(self.inner(self.norm(mixed)))


@branch(WORDS, WORDS * 6, WORDS * 0.5, line="if scores.max() > self.limit")
class SixBlocks(nn.Module):
    def __init__(self, limits: tuple[float, ...] = (1.5, 1.5, 2.0, 2.0, 2.5, 3.0)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(limit) for limit in limits)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


row(
    "six blocks, out of reach",
    WORDS,
    EQUAL,
    values={"x": (-4.0, 4.0)},
    weak=UNVERIFIED,
    round_trip=True,
    line="if scores.max() > self.limit:",
    ci="onnx_legacy",
)(lambda: SixBlocks((1e9,) * 6))


class BlockByWhere(Block):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, dim=2)
        scores = self.heads(q) @ self.heads(k).transpose(2, 3) / 8**0.5
        scores = torch.where(scores.max() > self.limit, scores.tanh(), scores)
        mixed = (scores.softmax(3) @ self.heads(v)).transpose(1, 2).flatten(2)
        return x + torch.relu(self.inner(self.norm(mixed)))


row("block by where", WORDS, WORDS * 6, round_trip=True, ci="export")(lambda: BlockByWhere(1.0))

# -- exits and routes ------------------------------------------------------------------------------


class Exit(nn.Module):
    def __init__(self, limit: float) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))

    def sure(self, out: Tensor) -> bool:
        return bool(out.amax(1).min() > self.limit)


@branch(
    "early exit",
    ODD,
    equal_rows(-6.0, -8.0, 9.0, -4.0, 8.0, 1.0),
    equal_rows(-8.0, 4.0, -6.0, -7.0, 8.0, 2.0),
    equal_rows(7.0, -7.0, 5.0, -2.0, -4.0, 6.0),
    values={"x": (-12.0, 12.0)},
    refused={"export onnx": undecided("bool(out.amax(1).min() > self.limit)")},
)
@has(
    exits=lambda: nn.ModuleList(Exit(limit) for limit in (0.5, 0.36, 0.325)),
    last=lambda: nn.Linear(6, 4),
)
def forward(self, x: Tensor) -> Tensor:
    for level in self.exits:
        x = level(x)
        out = level.head(x).softmax(1)
        if level.sure(out):
            return out
    return self.last(x)


@branch("fallback head", X, N * 6)
@has(head=lambda: nn.Linear(3, 4), careful=lambda: nn.Linear(3, 4))
def forward(self, x: Tensor) -> Tensor:
    out = self.head(x).softmax(1)
    if bool((out.amax(1) < 0.4).any()):
        out = (self.head(x) + self.careful(x)).softmax(1)
    return out


@row(
    X,
    -N,
    N + 3,
    trace=DIFFERS,
    script=no_construct(),
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=DIFFERS,
    blame=baked(),
    refused={"export onnx": undecided()},
    ci="trace script onnx_legacy",
)
class ExpertByIndex(nn.Module):
    """No branch: the index is a Python number, which the artifact holds as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[self.gate(x).mean(0).argmax().item()](x)


@branch(X, -N, N + 3, line="best == ", refused={"export onnx": undecided()})
class ExpertByBranch(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        best = int(self.gate(x).mean(0).argmax())  # here
        if best == 0:
            return self.experts[0](x)
        if best == 1:
            return self.experts[1](x)
        return self.experts[2](x)


@branch(X, -N, N + 3)
class SparseExperts(ExpertByIndex):
    """An expert that no row asks for is skipped."""

    def forward(self, x: Tensor) -> Tensor:
        routes = self.gate(x).argmax(1)
        out = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            chosen = routes == place
            if chosen.any():
                out = out + torch.where(chosen.unsqueeze(1), expert(x), torch.zeros_like(x))
        return out


@row(X, -N, round_trip=True, ci="onnx")
class DenseExperts(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        routes = F.one_hot(self.gate(x).argmax(1), 3).to(x.dtype)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (routes.unsqueeze(2) * outs).sum(1)


@branch("small update", X, N - 4)
@has(layer=lambda: nn.Linear(3, 3))
def forward(self, x: Tensor) -> Tensor:
    update = self.layer(x)
    if update.norm() < 0.4 * x.norm():
        return x
    return x + update


@branch("recall", X, normal(5, 3, seed=7)[:4])
@has(
    keys=lambda: Buffer(normal(5, 3, seed=7)),
    stored=lambda: Buffer(normal(5, 2, seed=8)),
    guess=lambda: nn.Linear(3, 2),
)
def forward(self, x: Tensor) -> Tensor:
    """Returns the stored value if the key is close to a stored one."""
    likeness = F.cosine_similarity(x.unsqueeze(1), self.keys.unsqueeze(0), dim=2)
    if bool((likeness.amax(1) > 0.98).all()):
        return self.stored[likeness.argmax(1)]
    return self.guess(x)


@branch("codebook", X, N * 6, round_trip=True, ci="script")
@has(codes=lambda: nn.Parameter(torch.randn(6, 3)))
def forward(self, x: Tensor) -> Tensor:
    distances = (x.unsqueeze(1) - self.codes).square().sum(2)
    if distances.amin(1).amax() > 6.0:
        return x
    return self.codes[distances.argmin(1)]


# -- detection and decoding ------------------------------------------------------------------------


@branch(
    "detections, from none",
    call(BOXES, SCORES * 0.5),
    call(BOXES, SCORES),
    values=SHARES,
    ci="trace",
)
@branch("detections", call(BOXES, SCORES), call(BOXES, SCORES * 0.5), EQUAL)
def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
    """The branch changes nothing: without it an empty result would be empty too."""
    kept = scores > 0.6
    if not kept.any():
        return boxes.new_zeros((0, 5))
    return torch.cat([boxes[kept], scores[kept].unsqueeze(1)], dim=1)


@branch(
    "few detections",
    call(BOXES, SCORES),
    call(BOXES, SCORES * 0.5),
    call(BOXES, filled(0.7, 5)),
    line="kept.",
    values=SHARES,
)
def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
    kept = scores > 0.6
    if int(kept.sum()) > 3:
        kept = scores > 0.8
    elif not kept.any():
        return boxes.mean(0, keepdim=True)
    return boxes[kept]


@branch(
    "suppression",
    call(*OVERLAP),
    call(OVERLAP[0] * 2, OVERLAP[1]),
    shapes={"starts": "4", "ends": "4"},
    refused={"export onnx": undecided("last = float(starts.min()) - 1")},
)
def forward(self, starts: Tensor, ends: Tensor) -> Tensor:
    """Greedy: an interval that overlaps a kept one is dropped."""
    kept = [starts[0] * 0, ends[0] * 0]
    last = float(starts.min()) - 1
    for i in range(4):
        if float(starts[i]) >= last:
            kept.append(starts[i])
            kept.append(ends[i])
            last = float(ends[i])
    return torch.stack(kept).sum().reshape(1)


@branch(
    torch.tensor([[0], [1]]),
    torch.tensor([[2], [7]]),
    torch.tensor([[6], [6]]),
    values={"ids": (0, 7)},
    ci="onnx",
)
class Generate(nn.Module):
    """Greedy decoding with a stop token."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("follower", torch.tensor([1, 3, 2, 4, 5, 6, 7, 2]))

    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            new = self.follower[ids[:, -1]]
            ids = torch.cat([ids, new.unsqueeze(1)], dim=1)
            if (new == 2).all():
                break
        return ids


@branch(
    "generate by logits",
    call(torch.tensor([1, 2]), normal(2, 8)),
    call(torch.tensor([3, 3]), normal(2, 8)),
    call(torch.tensor([4, 5]), normal(2, 8)),
    call(torch.tensor([0]), normal(1, 8, seed=14) * 3),
    values={"first": (0, 5)},
)
@has(words=lambda: nn.Embedding(6, 8), cell=lambda: nn.GRUCell(8, 8), head=lambda: nn.Linear(8, 6))
def forward(self, first: Tensor, h: Tensor) -> Tensor:
    total = torch.zeros_like(h)
    token = first
    steps = 0
    while steps < 5 and bool((token != 3).any()):
        h = self.cell(self.words(token), h)
        token = self.head(h).argmax(1)
        total = total + h
        steps += 1
    return total


@row(
    "generate, masked",
    torch.tensor([[0], [1]]),
    torch.tensor([[2], [7]]),
    values={"ids": (0, 7)},
    ci="trace",
)
class GenerateMasked(Generate):
    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            last = ids[:, -1]
            new = torch.where(last == 2, last, self.follower[last])
            ids = torch.cat([ids, new.unsqueeze(1)], dim=1)
        return ids


def labels(*numbers: int) -> Tensor:
    """Return logits whose largest entries are these."""
    return F.one_hot(torch.tensor(numbers), 4) * 2.0 - 1.0 + normal(len(numbers), 4) * 0.1


@branch(
    "collapse repeats",
    call(labels(1, 1, 0, 2)),
    call(labels(3, 2, 1, 0)),
    call(labels(0, 0, 0, 0)),
    shapes={"logits": "4 4"},
    refused={"export onnx": undecided("label = int(best[t])")},
    ci="export",
)
def forward(self, logits: Tensor) -> Tensor:
    """Greedy decoding of connectionist labels: repeats and blanks fall away."""
    best = logits.argmax(1)
    code = torch.zeros_like(best[0])
    previous = -1
    for t in range(4):
        label = int(best[t])
        if label != 0 and label != previous:
            code = code * 10 + label
        previous = label
    return code.reshape(1)
