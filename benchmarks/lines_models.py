"""Models whose export fails, with the line that is to blame, for `benchmarks/lines.py`.

A method is the ``forward`` of a model. The line to blame ends in ``# here``, a second one that
shares the blame in ``# also``.
"""

from __future__ import annotations

import math

import torch
from families import Models, given
from torch import nn
from zoo.row import normal, whole

TRACES, EXPORTS = ("trace", "onnx_legacy"), ("export", "onnx")
ALL = (*TRACES, *EXPORTS)
X, WIDE = normal(4, 6), normal(4, 8)
FREE = {"shapes": {"x": "batch time"}, "dims": {"batch": (1, 16), "time": (1, 16)}}
BATCH = {"shapes": {"x": "batch 6"}}
COMMON = {"inputs": (X,), "options": FREE}
MODELS = Models()


# -- a condition on sizes, or an operator that fixes them ------------------------------------------


class Gate(nn.Module):
    def forward(self, x):
        if x.shape[1] > 5:  # here
            return x * 2
        return x


@MODELS.family("size", targets=EXPORTS, **COMMON)
class Sizes:
    def ternary(self, x):
        scale = 0.5 if x.shape[0] > 3 else 2.0  # here
        return x * 2 * scale

    @given(has={"gate": Gate})
    def submodule(self, x):
        return self.gate(x.relu()) + 1

    def repeated(self, x):
        y = x.relu()
        while y.shape[0] < 6:  # here
            y = torch.cat([y, y])
        return y

    def indexed_by_a_condition(self, x):
        y = x.relu()
        return [y + 1, y * 3][x.shape[1] > 4]  # here

    @given(targets=ALL)
    def member(self, x):
        y = x.relu()
        if x.shape[0] in {4, 8}:  # here
            y = y + 1
        return y

    @given(targets=ALL)
    def text(self, x):
        y = x.relu()
        if str(x.shape[1]) == "6":  # here
            y = y + 1
        return y

    @given(inputs=(WIDE,))
    def last_five(self, x):
        z = x.relu()[:, -5:]  # here
        return z * 2

    @given(inputs=(WIDE,))
    def rounded_up(self, x):
        k = math.ceil(x.shape[1] / 3)  # here
        return x.relu() * 2 + k

    @given(targets=("onnx_legacy", *EXPORTS))
    def unbound(self, x):
        rows = x.relu().unbind(0)  # here
        return rows[0] + rows[-1] * len(rows)

    @given(inputs=(WIDE,))
    def attempted(self, x):
        y = x.relu()
        try:
            return y.view(x.shape[0], 2, -1).sum(1)  # here
        except RuntimeError:  # here
            return y.sum(1)

    def matched(self, x):
        y = x.relu()
        match x.shape[1]:
            case 6:  # here
                return y + 1
            case _:
                return y


# -- a number that Python made, used further down --------------------------------------------------


def rows_of(x):
    return int(x.shape[0])  # here


@MODELS.family("number", targets=TRACES, **COMMON)
class Numbers:
    @given(targets=ALL)
    def key(self, x):
        key = f"{x.size(0) % 2}"  # here
        return x * 2 + {"0": 1.0, "1": 3.0}[key]

    @given(targets=ALL)
    def looked_up(self, x):
        table = {4: 1.0, 5: 2.0}
        scale = table.get(x.shape[0], 7.0)  # here
        return x.relu() * scale

    def tuple_looked_up(self, x):
        y = x.relu()
        key = (x.shape[0], 6)
        return y * {(4, 6): 2.0}.get(key, 5.0)  # here

    def item(self, x):
        top = x.max().item()  # here
        y = x.relu() * 2
        return y / (abs(top) + 1)

    @given(targets=ALL)
    def length_of_a_text(self, x):
        text = "a" * x.shape[0]  # here
        return x.relu() + len(text)

    def formatted(self, x):
        text = f"{x.sum():.1f}"  # here
        return x.relu() * float(text)

    def function(self, x):
        k = rows_of(x)
        return x.relu() / k

    def kind(self, x):
        y = x.relu()
        if isinstance(x.shape[0], int):  # here
            return y + 1
        return y

    def contained(self, x):
        y = x.relu()
        if 0.5 in x:  # here
            y = y + 1
        return y * (2.0 if 3 in [int(s) for s in x.shape] else 1.0)  # here


# -- a choice among layers or functions ------------------------------------------------------------

LAYERS = {"layers": lambda: nn.ModuleList(nn.Linear(6, 6) for _ in range(3))}
HEADS = {"heads": lambda: nn.ModuleDict({"0": nn.Linear(6, 6), "1": nn.Linear(6, 6)})}


@MODELS.family("choice", targets=ALL, inputs=(X,), has=LAYERS, options=BATCH)
class Choices:
    def by_size(self, x):
        layer = self.layers[x.shape[0] % 3]  # here
        return layer(x.relu()) + 1

    @given(has=HEADS)
    def by_key(self, x):
        key = f"{x.shape[0] % 2}"  # here
        head = self.heads[key]
        return head(x.relu())

    def by_value(self, x):
        which = int(x.sum() > 0)  # here
        layer = self.layers[which]
        return layer(x.relu())

    def some_layers(self, x):
        y = x.relu()
        for layer in self.layers[: x.shape[0] % 3]:  # here
            y = layer(y)
        return y

    @given(targets=EXPORTS)
    def by_minimum(self, x):
        k = min(x.shape[0], 2)  # here
        layer = self.layers[k]
        return layer(x.relu())

    @given(targets=TRACES)
    def nearest(self, x):
        layer = min(self.layers, key=lambda one: abs(one.weight.sum() - x.sum()))  # here
        return layer(x.relu())


# -- values that steer Python ----------------------------------------------------------------------


@MODELS.family("value", targets=TRACES, **COMMON)
class Values:
    @given(inputs=(whole(1, 3, 4),), options={"shapes": {"x": "batch"}})
    def loop_over_values(self, x):
        out = torch.ones(4)
        for i in x.tolist():  # here
            out = out * (i + 1)
        return out

    def kept(self, x):
        self.last = float(x[0, 0])  # here
        return x * 2 + self.last

    def first_and_rest(self, x):
        first, *rest = x * 2  # here
        return first - rest[-1] if rest else first


# -- comprehensions and expressions of several lines -----------------------------------------------


@MODELS.family("expression", targets=ALL, **COMMON)
class Expressions:
    def nested(self, x):
        y = x.relu()
        out = [
            y[i] * j
            for j in range(2)
            for i in range(len(y))  # here
        ]
        return sum(out)

    def filtered(self, x):
        rows = [
            x.relu()[:, :1] * i
            for i in range(8)
            if i < x.shape[1]  # here
        ]
        return torch.stack(rows).sum(0)

    def every(self, x):
        y = x.relu()
        if all(
            s > 3  # here
            for s in x.shape
        ):
            y = y + 1
        return y

    @given(targets=TRACES)
    def function_inside(self, x):
        scale = lambda y: y * x.max().item()  # noqa: E731  # here
        return scale(x.relu() + 1)

    @given(targets=TRACES)
    def items(self, x):
        weights = [
            row.max().item()  # here
            for row in (x[0], x[0] * 2)
        ]
        return x.relu() * sum(weights)

    def chained(self, x):
        return (
            x.relu()
            .mul(2 if x.shape[1] > 4 else 3)  # here
            .tanh()
        )


# -- two lines that share the blame ----------------------------------------------------------------


@MODELS.family("two lines", targets=TRACES, **COMMON)
class TwoLines:
    def values(self, x):
        high = x.max().item()  # here
        low = x.min().item()  # also
        return x.relu() * high + low

    def branches(self, x):
        y = x.relu()
        if x.sum() > 100:  # here
            y = y + 1
        if x.max() > 100:  # also
            y = y * 2
        return y

    def number_and_branch(self, x):
        y = x.relu()
        k = float(x.sum())  # here
        if x.max() > 100:  # also
            y = y + 1
        return y * k

    @given(targets=ALL)
    def loop_and_branch(self, x):
        y = x.relu()
        for i in range(x.shape[0]):  # here
            y = y + i
        if x.shape[1] > 4:  # also
            y = y * 2
        return y

    @given(has=LAYERS, options=BATCH, targets=ALL)
    def choices(self, x):
        first = self.layers[x.shape[0] % 3]  # here
        second = self.layers[x.shape[0] % 2]  # also
        return second(first(x))

    @given(targets=EXPORTS)
    def views(self, x):
        y = x.relu()
        left = y.view(2, -1)  # here
        right = y.view(-1, 3)  # also
        return left.sum() + right.sum(0)
