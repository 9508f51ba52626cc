"""eager/watch.py with ScriptModules, and what it loads in a new interpreter."""

from __future__ import annotations

import subprocess
import sys
import warnings

import torch
from torch import nn

from pytest_torchexport.eager.watch import watch
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.subject import Subject

# -- torch's private dispatch mode -----------------------------------------------------------------


def test_watching_loads_no_dynamo():
    code = (
        "import sys, torch\n"
        "from pytest_torchexport.inputs.spec import Call\n"
        "from pytest_torchexport.outcomes.subject import Subject\n"
        "from pytest_torchexport.eager.watch import watch\n"
        "assert watch(Subject.of(torch.nn.ReLU()), Call((torch.ones(2),)), 0)[0].steps\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- lines and modules -----------------------------------------------------------------------------


def test_a_script_module_is_watched_too():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(3, 3))
    found, _ = watch(Subject.of(scripted), Call((torch.ones(2, 3),)), 0)
    assert "torch.addmm" in {op.in_torch for op in found.steps}


def test_watching_what_loads_dynamo_itself_does_no_harm_to_later_runs():
    code = (
        "import torch\n"
        "from pytest_torchexport.inputs.spec import Call\n"
        "from pytest_torchexport.outcomes.subject import Subject\n"
        "from pytest_torchexport.eager.watch import watch\n"
        "def branching(x): return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))\n"
        "watch(Subject.of(branching), Call((torch.ones(2),)), 0)\n"
        "print(branching(torch.zeros(1)).item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"
