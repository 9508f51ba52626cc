"""The device that these tests run on. Without CUDA, each file here is skipped as a whole."""

from __future__ import annotations

import os

import pytest
import torch

# `scripts/check-gpu --device cpu` tries the tests themselves on a machine without CUDA.
DEVICE = os.environ.get("TORCHEXPORT_GPU_TRIAL", "cuda")
ON_CUDA = DEVICE == "cuda"

if ON_CUDA and not torch.cuda.is_available():
    pytest.skip("needs CUDA: scripts/check-gpu runs it", allow_module_level=True)

TARGETS = ("trace", "script", "export")
