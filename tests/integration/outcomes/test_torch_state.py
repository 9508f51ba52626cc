"""outcomes/torch_state.py in a new interpreter, for settings that torch reads once."""

from __future__ import annotations

import subprocess
import sys

NEWER = """
import torch
from pytest_torchexport.outcomes.torch_state import quiet
torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.backends.cudnn.conv.fp32_precision = "tf32"
for device in ("cpu", "cuda"):
    with quiet(device):
        print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
    print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
"""


def test_tf32_by_its_newer_names_is_read_and_put_back_by_them():
    # A process of its own: torch never forgets which of the two APIs has been used.
    done = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tf32"] * 4 + ["ieee"] * 2 + ["tf32"] * 2
