"""Modules of public libraries that branch, for the benchmark of the search on code of others.

The modules and their witnesses were chosen by reading the libraries' sources, before the search
had met any of them. A library is imported when its module is built: the last tag is its package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import *

section("libraries", "transformers")


@row(
    "bart layer in half precision",
    call(normal(2, 4, 8, dtype=torch.float16), None),
    call(torch.full((2, 4, 8), 60000.0).half() * coins(2, 4, 8), None),
    shapes={"hidden_states": "batch time 8"},
    dims={"batch": (1, 3), "time": (1, 8)},
    values={"hidden_states": (-65000.0, 65000.0)},
)
def bart_layer() -> nn.Module:
    from transformers import BartConfig
    from transformers.models.bart.modeling_bart import BartEncoderLayer

    config = BartConfig(d_model=8, encoder_attention_heads=2, encoder_ffn_dim=16)
    config._attn_implementation = "eager"
    return BartEncoderLayer(config).half()


def spread(module: nn.Module) -> nn.Module:
    """Draw the weights anew from a normal distribution, as wide as that of a trained model."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


class Calls(nn.Module):
    """A user's module that calls a function of a library."""

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: Tensor) -> Any:
        return self.function(x, **self.arguments)


class CallsWithTwo(Calls):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(x, y, **self.arguments)


@row(
    call(normal(2, 4, 3), whole(1, 3, 2, 4)),
    call(normal(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)),
    call(normal(1, 4, 3), whole(0, 3, 1, 4)),
    shapes={"x": "batch time 3", "y": "batch time"},
    dims={"batch": (1, 3), "time": (1, 6)},
    values={"y": (0, 4)},
)
def length_regulator() -> nn.Module:
    from transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer import (
        length_regulator,
    )

    return CallsWithTwo(length_regulator)


def same_expert() -> Example:
    """Return tokens that all go to one expert."""
    return (normal(1, 1, 8).repeat(2, 3, 1),), {}


@row(
    normal(2, 3, 8),
    same_expert,
    normal(1, 1, 8),
    normal(4, 6, 8),
    shapes={"hidden_states": "batch time 8"},
    dims={"batch": (1, 4), "time": (1, 6)},
)
def mixture() -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=8, intermediate_size=8, num_local_experts=4, num_experts_per_tok=1
    )
    config._experts_implementation = "eager"
    return spread(MixtralSparseMoeBlock(config))


section("libraries", "torchvision")


@row(
    "resize",
    normal(3, 16, 12),
    *tuple(call(normal(3, *size)) for size in ((10, 20), (8, 8), (12, 8), (30, 10))),
    shapes={"inputs[0]": "3 height width"},
    dims={"height": (4, 32), "width": (4, 32)},
)
def resizes() -> nn.Module:
    from torchvision.transforms.v2 import Resize

    return Resize(8, max_size=12)


section("libraries", "kornia")


@row(
    call(normal(5, 4), normal(4, 4)),
    call(normal(5, 4), normal(5, 4) + 0.01),
    call(normal(5, 4), torch.ones(4, 4)),
    call(normal(1, 4), normal(4, 4)),
    call(normal(4, 4), normal(1, 4)),
    shapes={"desc1": "n 4", "desc2": "m 4"},
    dims={"n": (1, 6), "m": (1, 6)},
)
def matcher() -> nn.Module:
    from kornia.feature import DescriptorMatcher

    return DescriptorMatcher("smnn", 0.8)


section("libraries", "torchmetrics")

scored = {
    "shapes": {"x": "n", "y": "n"},
    "dims": {"n": (2, 8)},
    "values": {"x": (0.0, 1.0), "y": (0, 1)},
}


def labels(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


truth = labels(0, 1, 0, 1, 1, 0)


def guess(*numbers: float) -> Callable[[], Example]:
    return call(torch.tensor(numbers), truth)


sure = truth.float()


@row(
    guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3),
    call(sure, truth),
    call(1 - sure, truth),
    call(sure * 0 + 1, truth),
    call(sure * 0, truth),
    call(sure, truth * 0),
    call(sure, truth * 0 + 1),
    call(sure * 0, truth * 0),
    **scored,
)
def matthews() -> nn.Module:
    from torchmetrics.functional.classification import binary_matthews_corrcoef

    return CallsWithTwo(binary_matthews_corrcoef, validate_args=False)


section("libraries", "torchdiffeq")

steps = torch.tensor([0.0, 0.1, 0.1])


class Drift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y.sin()) * (1 + t)


class NeuralOde(nn.Module):
    def __init__(self, method: str) -> None:
        super().__init__()
        from torchdiffeq import odeint

        self.drift, self.solve = Drift(), partial(odeint, rtol=1e-3, atol=1e-4, method=method)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        return self.solve(self.drift, x, times.cumsum(0))


row(
    "adaptive solver",
    call(normal(3), steps),
    call(normal(3), steps * 40),
    call(normal(3) * 8, steps * 20),
    call(normal(3) * 0, steps),
    shapes={"x": "3", "times": "3"},
    values={"times": (0.01, 5.0), "x": (-10.0, 10.0)},
)(partial(NeuralOde, "dopri5"))


section("libraries", "torchcrf")


def masked(*sizes: int) -> Callable[[], Example]:
    most = max(sizes)
    mask = torch.arange(most) < torch.tensor(sizes)[:, None]
    return call(normal(len(sizes), most, 4), mask)


@row(
    "tagger",
    masked(5, 3),
    masked(5, 5),
    masked(1, 1),
    masked(2),
    masked(4, 1, 3),
    shapes={"x": "batch time 4", "mask": "batch time"},
    dims={"batch": (1, 3), "time": (1, 6)},
    map=lambda mask: {"mask": mask | (torch.arange(mask.shape[1]) == 0)},
)
def crf() -> Any:
    from torchcrf import CRF

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.crf = CRF(4, batch_first=True)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            paths = self.crf.decode(x, mask)
            longest = max(len(path) for path in paths)
            return torch.tensor([path + [-1] * (longest - len(path)) for path in paths])

    return Tagger()
