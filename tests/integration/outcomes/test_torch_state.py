"""outcomes/torch_state.py with an exporter, and in a new interpreter for settings that torch reads once."""

from __future__ import annotations

import subprocess
import sys

import torch

from pytest_torchexport.outcomes.torch_state import quiet

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


class Prints(torch.nn.Module):
    def forward(self, x):
        rows = int(x.shape[0])
        try:
            raise ValueError(f"{x} is wrong")
        except ValueError:
            return x + rows + len(x)


def test_lines_at_which_a_trace_makes_a_constant_are_kept_without_those_of_printing():
    with quiet("cpu") as heard:
        torch.jit.trace(Prints(), torch.ones(2, 3), check_trace=False)
    assert [line.text for line in heard.traced] == [
        "rows = int(x.shape[0])",
        "return x + rows + len(x)",
    ]
    assert len(heard.warnings) == 2
