"""How far scattered runs move a result, for the tests of what rounds."""

from __future__ import annotations

import torch

from pytest_torchexport.judge.last_digits import scattered

EPS = torch.finfo(torch.float32).eps


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def wide(tensor):
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()


def scatter(function, *args, runs=6):
    """The largest distance between the plain result and scattered ones, per element."""
    plain = function(*args)
    gaps = []
    for seed in range(runs):
        with scattered(seed):
            moved = function(*args)
        assert moved.dtype == plain.dtype
        assert moved.shape == plain.shape
        gaps.append((wide(moved) - wide(plain)).abs())
    return torch.stack(gaps).amax(0)
