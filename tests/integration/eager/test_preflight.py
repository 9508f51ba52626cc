"""eager/preflight.py: what a watched run loads in a new interpreter."""

from __future__ import annotations

import subprocess
import sys


def test_watching_loads_no_dynamo_and_does_no_harm_to_what_does():
    code = (
        "import sys, torch\n"
        "from pytest_torchexport.inputs.spec import Call\n"
        "from pytest_torchexport.outcomes.subject import Subject\n"
        "from pytest_torchexport.eager.preflight import watch\n"
        "assert watch(Subject.of(torch.nn.ReLU()), Call((torch.ones(2),)), 0)[0].steps\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "def branching(x): return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))\n"
        "watch(Subject.of(branching), Call((torch.ones(2),)), 0)\n"
        "print(branching(torch.zeros(1)).item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"
