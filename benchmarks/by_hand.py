"""Seed bugs and compare what a test by hand sees of them with what the plugin sees.

A test by hand exports, runs the artifact on the sample of the export, and compares with
``assert_close``; ``verify=True`` is the check of ``torch.onnx.export``. A bug is seen if anything
raises, the exporter too. On ONNX three of the models come out right: there is nothing to be seen.

    python benchmarks/by_hand.py [MODEL ...]
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pytest_torchexport import check_export


class Model(nn.Module):
    def __init__(self, function: Callable[[Model, Tensor], Tensor]):
        super().__init__()
        self.count, self.function = 0, function
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def branch(_: Model, x: Tensor) -> Tensor:
    return x + 1 if x.sum() > 0 else x - 1


def scale(_: Model, x: Tensor) -> Tensor:
    return x / float(x.abs().max())


def size_branch(_: Model, x: Tensor) -> Tensor:
    return x * 2 if len(x) > 2 else x


def frozen_size(_: Model, x: Tensor) -> Tensor:
    return x + torch.zeros(int(x.shape[0]), 3)


def loop(_: Model, x: Tensor) -> Tensor:
    return torch.stack([row.softmax(0) for row in x])


def counter(model: Model, x: Tensor) -> Tensor:
    model.count += 1
    return x * model.count


def buffer(model: Model, x: Tensor) -> Tensor:
    model.seen += 1
    return x * model.seen


def from_numpy(_: Model, x: Tensor) -> Tensor:
    return x + torch.from_numpy(x.detach().numpy() * 2)


BUGS = (branch, scale, size_branch, frozen_size, loop, counter, buffer, from_numpy)


def trace_by_hand(module: nn.Module, x: Tensor) -> None:
    traced = torch.jit.trace(copy.deepcopy(module), x)
    torch.testing.assert_close(traced(x), module(x))


def onnx_by_hand(module: nn.Module, x: Tensor) -> None:
    program = torch.onnx.export(copy.deepcopy(module), (x,), dynamo=True)
    torch.testing.assert_close(program(x)[0], module(x))


def onnx_verify(module: nn.Module, x: Tensor) -> None:
    torch.onnx.export(module, (x,), dynamo=True, verify=True)


def trace_here(module: nn.Module, x: Tensor) -> None:
    assert check_export(module, (x,), target="trace").failure is None


def onnx_here(module: nn.Module, x: Tensor) -> None:
    assert check_export(module, (x,), target="onnx").failure is None


def is_seen(check: Callable[[nn.Module, Tensor], None], module: nn.Module, x: Tensor) -> bool:
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet[0], quiet[1], torch.no_grad():
            check(copy.deepcopy(module), x.clone())
    except Exception:
        return True
    return False


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    bugs = [bug for bug in BUGS if not names or bug.__name__ in names]
    for check in (trace_by_hand, trace_here, onnx_by_hand, onnx_verify, onnx_here):
        torch.manual_seed(0)
        seen = [bug.__name__ for bug in bugs if is_seen(check, Model(bug).eval(), torch.rand(2, 3))]
        print(f"{check.__name__:14} {len(seen)} of {len(bugs)}: {', '.join(seen)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
