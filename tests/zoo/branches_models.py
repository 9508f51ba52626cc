"""Branches of whole models: loops ended by data, early exits, routing, decoding, detection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.branches import EQUAL, branch, filled, rows
from zoo.row import (
    DIFFERS,
    REFUSED,
    UNVERIFIED,
    baked,
    call,
    no_construct,
    normal,
    row,
    truth,
    undecided,
)

# -- loops -----------------------------------------------------------------------------------------


class HalveWhileLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 4.0:
            x = x * 0.5
        return x + 1


class NewtonRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        target = x.square().sum() + 1
        guess, steps = target, 0
        while bool((guess * guess - target).abs() > 0.05) and steps < 12:
            guess = (guess + target / guess) / 2
            steps += 1
        return x / guess


class FixedPoint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x
        for _ in range(10):
            new = torch.tanh(self.layer(state)) * 0.5
            change = (new - state).abs().amax()
            state = new
            if change < 0.2:
                break
        return state


class CollatzSteps(nn.Module):
    def forward(self, n: Tensor) -> Tensor:
        steps = torch.zeros_like(n)
        while int(n) != 1:
            n = n // 2 if int(n) % 2 == 0 else 3 * n + 1
            steps = steps + 1
        return steps


class RepeatByTensor(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        for _ in range(int(n)):
            x = x * 0.5 + 1
        return x


class RepeatByMask(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        for step in range(3):
            x = torch.where(step < n, x * 0.5 + 1, x)
        return x


class LayersByTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            if place < int(depth):
                x = torch.relu(layer(x)) + x
        return x


class OverLengths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(int(lengths.max())):
            h = torch.where((t < lengths).unsqueeze(1), self.cell(x[:, t], h), h)
        return h


class UntilLengths(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for t in range(5):
            if bool((t >= lengths).all()):
                break
            total = total * 0.5 + x[:, t]
        return total


class Ponder(nn.Module):
    """Adaptive computation: steps until the halting probabilities add up to enough."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(3, 3)
        self.halt = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        halted = torch.zeros(())
        steps = 0
        while bool(halted < 0.9) and steps < 8:
            x = torch.tanh(self.step(x))
            halted = halted + torch.sigmoid(self.halt(x)).mean()
            steps += 1
        return x * halted


class AddsUp(nn.Module):
    """Three turns instead of two if the mean is below -27: no ordinary call has that."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        while bool(total < 0.9):
            total = total + 0.5 + 0.1 * torch.tanh(x.mean() / 50)
        return x * total


class SettlesOnARoot(nn.Module):
    """Newton's method for numbers from 4 to 6, which take one turn or two."""

    def forward(self, x: Tensor) -> Tensor:
        target = 5 + torch.tanh(x.mean() / 50)
        guess = torch.ones(()) * 2
        while bool((guess * guess - target).abs() > 0.003 * target):
            guess = (guess + target / guess) / 2
        return x / guess


class HalvesTheRest(nn.Module):
    """Halves until little is left: three turns instead of two if the mean is below -24."""

    def forward(self, x: Tensor) -> Tensor:
        rest = 1 + 0.4 * torch.sigmoid(-x.mean() / 8 - 3)
        while bool(rest > 0.3):
            rest = rest * 0.5
        return x + rest


class AddsUpAlone(nn.Module):
    """No input changes the number of turns."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        while bool(total < 2):
            total = total + 1
        return x * total


class CountsTurns(nn.Module):
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


class HalveInScript(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return halved(x) + 1


# -- recurrent steps -------------------------------------------------------------------------------


class ResettingStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        h, c = self.cell(x, (h, c))
        if c.abs().amax() > 1.2:
            c = torch.zeros_like(c)
        return torch.cat([h, c], dim=1)


class ResettingOverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(4):
            h = self.cell(x[:, t], h)
            if x[:, t].mean() > 1.0:
                h = torch.zeros_like(h)
        return h


class Controller(nn.Module):
    """A saturated controller does not integrate further."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.75))

    def forward(self, error: Tensor, integral: Tensor) -> Tensor:
        drive = self.gain * error + integral
        if drive.abs().amax() > 2.0:
            drive = drive.clamp(-2.0, 2.0)
        else:
            integral = integral + 0.1 * error
        return drive + integral


class RollingCache(nn.Module):
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


class SixBlocks(nn.Module):
    def __init__(self, limits: tuple[float, ...] = (1.5, 1.5, 2.0, 2.0, 2.5, 3.0)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(limit) for limit in limits)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class BlockByWhere(Block):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, dim=2)
        scores = self.heads(q) @ self.heads(k).transpose(2, 3) / 8**0.5
        scores = torch.where(scores.max() > self.limit, scores.tanh(), scores)
        mixed = (scores.softmax(3) @ self.heads(v)).transpose(1, 2).flatten(2)
        return x + torch.relu(self.inner(self.norm(mixed)))


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


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.exits = nn.ModuleList(Exit(limit) for limit in (0.5, 0.36, 0.325))
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for level in self.exits:
            x = level(x)
            out = level.head(x).softmax(1)
            if level.sure(out):
                return out
        return self.last(x)


class FallbackHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.careful = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(x).softmax(1)
        if bool((out.amax(1) < 0.4).any()):
            out = (self.head(x) + self.careful(x)).softmax(1)
        return out


class ExpertByIndex(nn.Module):
    """No branch: the index is a Python number, which the artifact holds as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[self.gate(x).mean(0).argmax().item()](x)


class ExpertByBranch(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        best = int(self.gate(x).mean(0).argmax())
        if best == 0:
            return self.experts[0](x)
        if best == 1:
            return self.experts[1](x)
        return self.experts[2](x)


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


class DenseExperts(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        routes = F.one_hot(self.gate(x).argmax(1), 3).to(x.dtype)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (routes.unsqueeze(2) * outs).sum(1)


class SmallUpdate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        update = self.layer(x)
        if update.norm() < 0.4 * x.norm():
            return x
        return x + update


class Recall(nn.Module):
    """Returns the stored value if the key is close to a stored one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", normal(5, 3, seed=7))
        self.register_buffer("stored", normal(5, 2, seed=8))
        self.guess = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        likeness = F.cosine_similarity(x.unsqueeze(1), self.keys.unsqueeze(0), dim=2)
        if bool((likeness.amax(1) > 0.98).all()):
            return self.stored[likeness.argmax(1)]
        return self.guess(x)


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        distances = (x.unsqueeze(1) - self.codes).square().sum(2)
        if distances.amin(1).amax() > 6.0:
            return x
        return self.codes[distances.argmin(1)]


# -- detection and decoding ------------------------------------------------------------------------


class Detections(nn.Module):
    """The branch changes nothing: without it an empty result would be empty too."""

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = scores > 0.6
        if not kept.any():
            return boxes.new_zeros((0, 5))
        return torch.cat([boxes[kept], scores[kept].unsqueeze(1)], dim=1)


class FewDetections(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = scores > 0.6
        if int(kept.sum()) > 3:
            kept = scores > 0.8
        elif not kept.any():
            return boxes.mean(0, keepdim=True)
        return boxes[kept]


class Suppression(nn.Module):
    """Greedy: an interval that overlaps a kept one is dropped."""

    def forward(self, starts: Tensor, ends: Tensor) -> Tensor:
        kept = [starts[0] * 0, ends[0] * 0]
        last = float(starts.min()) - 1
        for i in range(4):
            if float(starts[i]) >= last:
                kept.append(starts[i])
                kept.append(ends[i])
                last = float(ends[i])
        return torch.stack(kept).sum().reshape(1)


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


class GenerateByLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 8)
        self.cell = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 6)

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


class GenerateMasked(Generate):
    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            last = ids[:, -1]
            new = torch.where(last == 2, last, self.follower[last])
            ids = torch.cat([ids, new.unsqueeze(1)], dim=1)
        return ids


class CollapseRepeats(nn.Module):
    """Greedy decoding of connectionist labels: repeats and blanks fall away."""

    def forward(self, logits: Tensor) -> Tensor:
        best = logits.argmax(1)
        code = torch.zeros_like(best[0])
        previous = -1
        for t in range(4):
            label = int(best[t])
            if label != 0 and label != previous:
                code = code * 10 + label
            previous = label
        return code.reshape(1)


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


def labels(*numbers: int) -> Tensor:
    """Return logits whose largest entries are these."""
    return F.one_hot(torch.tensor(numbers), 4) * 2.0 - 1.0 + normal(len(numbers), 4) * 0.1


MODEL_BRANCHES = (
    branch(
        "halve while large",
        HalveWhileLarge,
        call(N * 1.5),
        X,
        call(N * 4),
        line="while x.norm() > 4.0",
        ci="",
    ),
    branch(
        "newton root",
        NewtonRoot,
        X,
        call(N * 0.01),
        call(N * 0.2),
        call(N * 4),
        line="while bool((guess * guess - target).abs() > 0.05)",
        ci="",
    ),
    branch(
        "fixed point", FixedPoint, X, call(N * 0.05), call(N * 3), line="if change < 0.2", ci=""
    ),
    branch(
        "collatz steps",
        CollatzSteps,
        call(torch.tensor(6)),
        call(torch.tensor(1)),
        call(torch.tensor(2)),
        line="while int(n) != 1:",
        values={"n": (1, 16)},
        ci="",
    ),
    branch(
        "repeat by tensor",
        RepeatByTensor,
        call(N, torch.tensor(2)),
        call(N, torch.tensor(0)),
        call(N, torch.tensor(1)),
        call(N, torch.tensor(3)),
        line="for _ in range(int(n))",
        values={"n": (0, 3)},
        ci="onnx_legacy",
    ),
    row(
        "repeat by mask",
        RepeatByMask,
        call(N, torch.tensor(2)),
        witnesses=(call(N, torch.tensor(0)), call(N, torch.tensor(3))),
        values={"n": (0, 3)},
        ci="script",
    ),
    branch(
        "layers by tensor",
        LayersByTensor,
        call(N, torch.tensor(2)),
        call(N, torch.tensor(0)),
        call(N, torch.tensor(4)),
        line="if place < int(depth)",
        values={"depth": (0, 4)},
        ci="",
    ),
    branch(
        "over lengths",
        OverLengths,
        call(TIMED, torch.tensor([2, 1, 3])),
        call(TIMED, torch.tensor([0, 0, 0])),
        call(TIMED, torch.tensor([1, 0, 1])),
        call(TIMED, torch.tensor([5, 0, 1])),
        line="for t in range(int(lengths.max()))",
        **LENGTHS,
        ci="",
    ),
    branch(
        "until lengths",
        UntilLengths,
        call(TIMED, torch.tensor([2, 1, 3])),
        call(TIMED, torch.tensor([0, 0, 0])),
        call(TIMED, torch.tensor([5, 0, 1])),
        line="if bool((t >= lengths).all())",
        **LENGTHS,
        ci="",
    ),
    branch("adds up", AddsUp, X, call(N - 40), line="while bool(total < 0.9)", ci=""),
    branch(
        "settles on a root",
        SettlesOnARoot,
        X,
        call(N - 80),
        line="while bool((guess * guess - target).abs() > 0.003 * target)",
        ci="",
    ),
    branch("halves the rest", HalvesTheRest, X, call(N - 60), line="while bool(rest > 0.3)", ci=""),
    row(
        "adds up alone",
        AddsUpAlone,
        X,
        EQUAL,
        ci="",
        refused={"export onnx": undecided("while bool(total < 2):")},
    ),
    row("counts turns", CountsTurns, X, ci=""),
    branch("ponder", Ponder, X, call(N - 3), line="while bool(halted < 0.9) and steps < 8", ci=""),
    row(
        "halve in script",
        HalveInScript,
        call(N * 1.5),
        EQUAL,
        witnesses=(X, call(N * 4)),
        round_trip=True,
        refused={"export onnx": undecided("while bool(x.abs().amax() > 2.0):")},
    ),
    branch(
        "resetting step",
        ResettingStep,
        call(N, *STATE),
        call(N, STATE[0], STATE[1] * 5),
        line="if c.abs().amax() > 1.2",
        ci="",
    ),
    branch(
        "resetting over time",
        ResettingOverTime,
        call(normal(2, 4, 3)),
        call(normal(2, 4, 3) + 2),
        line="if x[:, t].mean() > 1.0",
        shapes={"x": "batch 4 3"},
        ci="",
    ),
    branch(
        "controller",
        Controller,
        call(N * 0.25, N * 0),
        call(N * 2, N * 0),
        line="if drive.abs().amax() > 2.0",
        ci="",
    ),
    branch(
        "rolling cache",
        RollingCache,
        call(normal(4, 3), normal(1, 3, seed=1), torch.tensor(2)),
        call(normal(4, 3), normal(1, 3, seed=1), torch.tensor(4)),
        line="if int(position) >= 4",
        values={"position": (0, 7)},
        ci="",
    ),
    branch(
        "six blocks",
        SixBlocks,
        call(WORDS),
        call(WORDS * 6),
        call(WORDS * 0.5),
        line="if scores.max() > self.limit",
        ci="",
    ),
    row(
        "six blocks, out of reach",
        lambda: SixBlocks((1e9,) * 6),
        call(WORDS),
        EQUAL,
        values={"x": (-4.0, 4.0)},
        weak=UNVERIFIED,
        ci="onnx_legacy",
        round_trip=True,
        refused={"export onnx": undecided("if scores.max() > self.limit:")},
    ),
    row(
        "block by where",
        lambda: BlockByWhere(1.0),
        call(WORDS),
        witnesses=(call(WORDS * 6),),
        ci="export",
        round_trip=True,
    ),
    branch(
        "early exit",
        EarlyExit,
        call(ODD),
        call(rows(-6.0, -8.0, 9.0, -4.0, 8.0, 1.0)),
        call(rows(-8.0, 4.0, -6.0, -7.0, 8.0, 2.0)),
        call(rows(7.0, -7.0, 5.0, -2.0, -4.0, 6.0)),
        line="if level.sure(out)",
        values={"x": (-12.0, 12.0)},
        ci="",
        refused={"export onnx": undecided("bool(out.amax(1).min() > self.limit)")},
    ),
    branch(
        "fallback head",
        FallbackHead,
        X,
        call(N * 6),
        line="if bool((out.amax(1) < 0.4).any())",
        ci="",
    ),
    row(
        "expert by index",
        ExpertByIndex,
        X,
        truth(trace=DIFFERS, script=REFUSED, export=REFUSED, onnx=REFUSED, onnx_legacy=DIFFERS),
        witnesses=(call(-N), call(N + 3)),
        ci="trace script onnx_legacy",
        blame=baked("argmax().item()"),
        refused={
            "script": no_construct("self.experts[self.gate(x).mean(0).argmax().item()](x)"),
            "export onnx": undecided("self.experts[self.gate(x).mean(0).argmax().item()](x)"),
        },
    ),
    branch(
        "expert by branch",
        ExpertByBranch,
        X,
        call(-N),
        call(N + 3),
        line="best == ",
        ci="",
        refused={"export onnx": undecided("best = int(self.gate(x).mean(0).argmax())")},
    ),
    branch(
        "sparse experts", SparseExperts, X, call(-N), call(N + 3), line="if chosen.any()", ci=""
    ),
    row("dense experts", DenseExperts, X, witnesses=(call(-N),), ci="onnx", round_trip=True),
    branch(
        "small update", SmallUpdate, X, call(N - 4), line="if update.norm() < 0.4 * x.norm()", ci=""
    ),
    branch(
        "recall",
        Recall,
        X,
        call(normal(5, 3, seed=7)[:4]),
        line="if bool((likeness.amax(1) > 0.98).all())",
        ci="",
    ),
    branch(
        "codebook",
        Codebook,
        X,
        call(N * 6),
        line="if distances.amin(1).amax() > 6.0",
        ci="script",
        round_trip=True,
    ),
    row(
        "detections",
        Detections,
        call(BOXES, SCORES),
        EQUAL,
        witnesses=(call(BOXES, SCORES * 0.5),),
        ci="",
        refused={"export onnx": undecided("if not kept.any():")},
    ),
    branch(
        "detections, from none",
        Detections,
        call(BOXES, SCORES * 0.5),
        call(BOXES, SCORES),
        line="if not kept.any()",
        values=SHARES,
    ),
    branch(
        "few detections",
        FewDetections,
        call(BOXES, SCORES),
        call(BOXES, SCORES * 0.5),
        call(BOXES, filled(0.7, 5)),
        line="kept.",
        values=SHARES,
        ci="",
    ),
    branch(
        "suppression",
        Suppression,
        call(*OVERLAP),
        call(OVERLAP[0] * 2, OVERLAP[1]),
        line="if float(starts[i]) >= last",
        shapes={"starts": "4", "ends": "4"},
        ci="",
        refused={"export onnx": undecided("last = float(starts.min()) - 1")},
    ),
    branch(
        "generate",
        Generate,
        call(torch.tensor([[0], [1]])),
        call(torch.tensor([[2], [7]])),
        call(torch.tensor([[6], [6]])),
        line="if (new == 2).all()",
        values={"ids": (0, 7)},
        ci="onnx",
    ),
    row(
        "generate, masked",
        GenerateMasked,
        call(torch.tensor([[0], [1]])),
        witnesses=(call(torch.tensor([[2], [7]])),),
        values={"ids": (0, 7)},
    ),
    branch(
        "generate by logits",
        GenerateByLogits,
        call(torch.tensor([1, 2]), normal(2, 8)),
        call(torch.tensor([3, 3]), normal(2, 8)),
        call(torch.tensor([4, 5]), normal(2, 8)),
        call(torch.tensor([0]), normal(1, 8, seed=14) * 3),
        line="while steps < 5 and bool((token != 3).any())",
        values={"first": (0, 5)},
        ci="",
    ),
    branch(
        "collapse repeats",
        CollapseRepeats,
        call(labels(1, 1, 0, 2)),
        call(labels(3, 2, 1, 0)),
        call(labels(0, 0, 0, 0)),
        line="if label != 0 and label != previous",
        shapes={"logits": "4 4"},
        ci="export",
        refused={"export onnx": undecided("label = int(best[t])")},
    ),
)
