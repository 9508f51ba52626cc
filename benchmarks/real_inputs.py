"""Seed faults that show only on real data, each beside a healthy kin, and count what is found.

``python benchmarks/real_inputs.py`` prints a row per fault: if it is found with ``inputs=`` and
without it, and if its kin passes with it. Goals: 10 of 10 with, at most 2 of 10 without, no false
alarm.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from pytest_torchexport import engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call

COUNT = 40
Made = Callable[..., Any]


@dataclass(frozen=True)
class Fault:
    """A model, an example, real inputs, and an artifact that is wrong on some of these."""

    name: str
    model: nn.Module
    example: tuple[Tensor, ...]
    inputs: list[tuple[Tensor, ...]]
    broken: Callable[[nn.Module], Made]


class Function(nn.Module):
    """A module that computes a function of its layer's output."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(1000, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.nn.functional.embedding(ids, self.words).mean(1))


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def among(tail: Callable[[], Tensor], usual: Callable[[], Tensor]) -> list[tuple[Tensor, ...]]:
    """Return inputs of which every tenth is a rare one."""
    return [(tail() if n % 10 == 7 else usual(),) for n in range(COUNT)]


def faults() -> list[Fault]:  # noqa: C901  # a function for each kind of data
    torch.manual_seed(0)

    def rows() -> Tensor:
        return torch.randn(2, 8)

    def long() -> Tensor:
        x = rows()
        x[0, 5] = 900.0
        return x

    def alike() -> Tensor:
        """Channels that all move together, which independent draws never do."""
        base = torch.randn(2, 1)
        return base + 0.003 * torch.randn(2, 8)

    def ids() -> Tensor:
        return torch.randint(0, 50, (2, 6))

    def rare() -> Tensor:
        found = ids()
        found[0, 3] = 777
        return found

    def wave() -> Tensor:
        return torch.sin(torch.arange(16.0).reshape(2, 8) / 3) * 5

    def holes(n: int) -> tuple[Tensor, ...]:
        """A mask with a hole in the middle: all others are of padding at the end."""
        mask = torch.ones(2, 12, dtype=torch.bool)
        lengths = torch.randint(6, 13, (2, 1))
        mask &= torch.arange(12) < lengths
        if n % 10 == 7:
            mask[:, 3:5] = False
        return torch.randn(2, 12, 3), mask

    def off(wrong: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Made]:
        """Break the result where a condition holds of the input's rows."""

        def broken(model: nn.Module) -> Made:
            def artifact(x: Tensor, *rest: Tensor) -> Tensor:
                y = model(x, *rest)
                where = wrong(rest[0] if rest else x)
                return torch.where(where.unsqueeze(-1), y + 0.5, y)

            return artifact

        return broken

    def clamped(limit: float) -> Callable[[nn.Module], Made]:
        return lambda model: lambda x: model(x.clamp(-limit, limit))

    def in_half(model: nn.Module) -> Made:
        """A product of two numbers overflows in half precision."""
        return lambda x: model(torch.where(x.square() > 65504, torch.zeros_like(x), x))

    sizes = [(torch.randn(23 if n % 10 == 7 else 2, 8),) for n in range(COUNT)]
    return [
        Fault(
            "saturates at 20",
            Function(),
            (rows(),),
            among(lambda: rows() * 15, rows),
            clamped(20.0),
        ),
        Fault(
            "clamp at 400 in a long tail", Function(), (rows(),), among(long, rows), clamped(400.0)
        ),
        Fault(
            "overflow in float16",
            Function(),
            (rows(),),
            among(lambda: rows() * 200, rows),
            in_half,
        ),
        Fault(
            "a rare token", Tokens(), (ids(),), among(rare, ids), off(lambda x: (x == 777).any(1))
        ),
        Fault(
            "ids beyond int8",
            Tokens(),
            (ids(),),
            among(lambda: ids() + 200, ids),
            off(lambda x: (x > 127).any(1)),
        ),
        Fault(
            "a hole in a mask",
            Masked(),
            holes(0),
            [holes(n) for n in range(COUNT)],
            off(
                lambda mask: (
                    (mask[:, 1:].int() - mask[:, :-1].int() > 0).any(1)
                    & mask[:, :2].all(1)
                    & mask[:, 5:6].all(1)
                    & ~mask[:, 3]
                    & ~mask[:, 4]
                )
            ),
        ),
        Fault(
            "a batch of 17 or more",
            Function(),
            (rows(),),
            sizes,
            off(lambda x: torch.full((len(x),), len(x) > 16)),
        ),
        Fault(
            "a norm above 60",
            Function(),
            (rows(),),
            among(lambda: rows().sign() * 25, rows),
            off(lambda x: x.norm(dim=1) > 60),
        ),
        Fault(
            "channels that move together",
            Function(),
            (rows(),),
            among(alike, rows),
            off(lambda x: (x.std(1) < 0.02) & (x.std(1) > 1e-4) & (x.mean(1).abs() > 0.05)),
        ),
        Fault(
            "a smooth signal",
            Function(),
            (rows(),),
            among(wave, rows),
            off(
                lambda x: (
                    (x.diff(dim=1).diff(dim=1).abs().amax(1) < 0.2 * x.std(1))
                    & (x.std(1) > 1.5)
                    & (x.diff(dim=1).diff(dim=1).abs().amax(1) > 1e-3)
                )
            ),
        ),
    ]


def found(fault: Fault, artifact: Made, inputs: list[tuple[Tensor, ...]] | None, seed: int) -> str:
    options = parse_check_options({"inputs": inputs})
    plan = Plan(target="onnx", device="cpu", options=options, seed=seed, diagnoses=False)
    verdict = engine.check_artifact(artifact, fault.model.eval(), Call(fault.example), plan)
    if verdict.status == "failed" and verdict.failure != "OutputsDiffer":
        return f"{verdict.failure}: {verdict.reason}"
    return verdict.status


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print("| fault | with inputs= | without | healthy, with inputs= |\n| --- | --- | --- | --- |")
    for fault in faults():
        broken = fault.broken(fault.model)
        cells = [
            ", ".join(dict.fromkeys(found(fault, artifact, inputs, seed) for seed in seeds))
            for artifact, inputs in (
                (broken, fault.inputs),
                (broken, None),
                (fault.model, fault.inputs),
            )
        ]
        print(f"| {fault.name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
