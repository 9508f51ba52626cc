"""The script that shows a failure again, and the calls that it makes.

It needs the files beside it alone: it loads the artifact, makes the failing call, and compares
with what the right side returned, in a process that has neither the model's source nor this
package.
"""

from __future__ import annotations

import pkgutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.scene import DIFFERS
from pytest_torchexport.inputs.pytrees import clone, flatten, is_plain
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import DEADLY, Case
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.runner import loader_of, plain_options
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.compare import DTYPE_TOLERANCES, Tolerance, compare_values
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import Outcome, Returned, Tensors
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    DimsNarrowed,
    Failure,
    RoundTripDiffers,
    StateDiffers,
)
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import Verdict
from pytest_torchexport.sandbox.child import taken

# Failures that a call of the artifact shows.
BY_A_CALL = (*DEADLY, *DIFFERS, DimsNarrowed, RoundTripDiffers)
# TorchScript optimizes a program after its first calls, which may change what it does:
# https://github.com/pytorch/pytorch/issues/80606
REPEATS = 3
PLAIN = (bool, int, float, str, type(None))

Leaves = Mapping[str, Any]
# What a call returned, and the state after it. None for no call: the state at the start.
Result = tuple[Outcome | None, Tensors]


class Unreadable(TypeError):
    """A call holds what another process cannot read without the user's classes."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """Calls in a row, of which the last one fails, and its results by path.

    Without a call, the results are the state at the start. Calls are in the form that the
    artifact's file takes, and ``eager`` and ``artifact``, what the two sides return, in the form
    that the file returns; empty if they do not return. ``right`` is the side that the file is to
    agree with: eager, or the artifact as it is in memory.
    """

    calls: Sequence[Call]
    eager: Leaves
    artifact: Leaves
    right: Literal["eager", "artifact"]

    def save(self, path: Path) -> None:
        """Write a file that ``torch.load`` reads with weights only. Raises OSError, Unreadable."""
        calls = [(call.args, call.kwargs) for call in self.calls]
        # A result may be a view of large weights, which would be saved as well.
        results = clone({"eager": dict(self.eager), "artifact": dict(self.artifact)})
        plain = _plain({"calls": calls, **results})
        with path.open("wb") as file:  # given a path, torch aborts the process if the disk is full
            torch.save(plain, file)


def _plain(value: Any) -> Any:
    """Return the value with containers of Python's own classes."""
    if isinstance(value, torch.Tensor):
        if not is_plain(value):
            raise Unreadable(f"it holds a {value.layout} tensor of {value.dtype}")
        if type(value) is torch.Tensor:
            return value
        plain = value.detach().as_subclass(torch.Tensor)
        return plain.requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        if not all(type(key) in PLAIN for key in value):
            raise Unreadable("it holds a dict whose keys are objects")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if type(value) not in (*PLAIN, torch.dtype):
        raise Unreadable(f"it holds a {type(value).__qualname__}, which no other process can read")
    return value


def saved(case: Case, failure: Failure, directory: Path) -> Rerun | None:
    """Make the failing calls again, and save them. Return None if these do not show the failure."""
    if not isinstance(failure, BY_A_CALL) or cuda.lost():
        return None
    log = case.log
    if log.row is not None or isinstance(failure, RoundTripDiffers):
        calls = log.row  # in a row, of which the last one fails
    else:
        tried = log.shrunk.recipe if log.shrunk is not None else log.trying
        found = case.accepted.call(tried or example_recipe(case.spec))
        calls = (found.call,) if found is not None else None
    if calls is None:
        return None
    eager: Result = None, case.reference.tensors()
    if calls:
        eager = case.reference.in_a_row(calls)[-1]
    artifact: Result | None = None
    if not isinstance(failure, DEADLY):
        judge = case.judge_of(case.runner, ItemLog(), case.random_paths)
        artifact = judge.in_a_row(calls)[-1] if calls else (None, judge.tensors())
    carried = artifact[1] if artifact is not None and isinstance(failure, StateDiffers) else None
    repeats = REPEATS if len(calls) == 1 and not case.reference.stateful else 1
    seen = Rerun(
        calls=[case.artifact.pack_inputs(call) for call in calls] * repeats,
        eager=_leaves(case, eager, carried),
        artifact=_leaves(case, artifact, carried) if artifact is not None else {},
        right="artifact" if isinstance(failure, RoundTripDiffers) else "eager",
    )
    tolerance = case.judge.tolerance if calls else Tolerance(0.0, 0.0)
    differs = compare_values(dict(seen.eager), dict(seen.artifact), tolerance)
    if not (seen.artifact if seen.right == "artifact" else seen.eager and differs):
        return None
    seen.save(directory / CALL)
    return seen


def _leaves(case: Case, result: Result, carried: Tensors | None) -> Leaves:
    """Return the outputs by path, empty if it did not return.

    Unless ``carried`` is None, inputs and state after the call as well: what the artifact has.
    """
    outcome, tensors = result
    names = [name for name in carried or () if name not in case.reference.caches]
    kept = {name: tensors[name] for name in names if name in tensors}
    if not isinstance(outcome, Returned):
        return kept if outcome is None else {}
    pack = getattr(case.artifact, "pack_outputs", None)
    found = pack(outcome.value) if pack is not None else None
    if found is None:
        found = dict(flatten(outcome.value, "output")[0])
    found = {path: leaf for path, leaf in found.items() if path not in case.random_paths}
    if carried is None:
        return found
    inputs = case.artifact.pack_inputs(outcome.inputs).flatten("inputs")[0]
    return {**found, **dict(inputs), **kept}


# -- the text --------------------------------------------------------------------------------------

# The file with the calls, and what the two sides return.
CALL = "call.pt"

HEAD = """
import random
import sys
import traceback
from pathlib import Path

import numpy
import torch
{imports}
HERE = Path(__file__).parent
device = "{device}"
torch.set_num_threads(1)
{limit}

def read(name):
    \"\"\"Return a part of the saved call; each time with tensors of its own.\"\"\"
    return torch.load(HERE / "{call}", map_location=device, weights_only=True)[name]


def leaves(value, path="output"):
    \"\"\"Return the leaves of tuples, lists and dicts, by path.\"\"\"
    if isinstance(value, dict):
        parts = {{f"[{{key!r}}]": part for key, part in value.items()}}
    elif isinstance(value, (list, tuple)):
        parts = {{f"[{{number}}]": part for number, part in enumerate(value)}}
    else:
        return {{path: value}}
    found = {{}}
    for key, part in parts.items():
        found |= leaves(part, path + key)
    return found


def state(thing):
    \"\"\"Return the parameters and buffers of a module by name.\"\"\"
    if not isinstance(thing, torch.nn.Module):
        return {{}}
    named = {{"parameter": thing.named_parameters(), "buffer": thing.named_buffers()}}
    return {{
        f"{{kind}} {{name}}": tensor.detach()
        for kind, tensors in named.items()
        for name, tensor in tensors
    }}


def compare(wanted, found, **tolerances):
    \"\"\"Print what differs. Return 1 if anything does.\"\"\"
    differs = 0
    for path in {{**wanted, **found}}:
        left, right = wanted.get(path, "nothing"), found.get(path, "nothing")
        try:
            if torch.is_tensor(left) and torch.is_tensor(right):
                own = tolerances.get(path, tolerances.get("all", {{}}))
                torch.testing.assert_close(right, left, equal_nan=True, **own)
            else:
                assert repr(left) == repr(right), f"{{right!r}} instead of {{left!r}}"
        except AssertionError as error:
            print(f"{{path}}: {{error}}\\n")
            differs = 1
    print("The failure is there." if differs else "The failure is not there.")
    return differs


def failed(what):
    \"\"\"Print an exception that is the failure, and end.\"\"\"
    traceback.print_exc(file=sys.stdout)
    print(f"The failure is there: {{what}}.")
    sys.exit(1)

"""

LOADING = """
try:
    path = HERE / {file!r}
{load}
except Exception:
    failed("the file does not load")
print("The failure is not there.")
"""

# An artifact may write to its inputs: each call has tensors of its own.
CALLING = """
path = HERE / {file!r}
{load}
value = args = kwargs = None
try:
    for number in range({calls}):
        args, kwargs = read("calls")[number]
        torch.manual_seed({seed}), random.seed({seed}), numpy.random.seed({seed} % 2**32)
        with {mode}:
            value = artifact(*args, **kwargs)
except Exception:
    failed("the artifact raises")
wanted = read({right!r})
{found}
sys.exit(compare(wanted, found{tolerances}))
"""
AS_LEAVES = "found = leaves(value)"
# A graph returns tensors in order.
IN_ORDER = """\
outputs = [path for path in wanted if path.startswith("output")]
found = dict(zip(outputs, value)) if len(value) == len(outputs) else leaves(value)"""
WITH_STATE = '\nfound |= leaves((args, kwargs), "inputs") | state(artifact)'
AT_THE_START = "found = state(artifact)"
SOME = "\nfound = {path: leaf for path, leaf in found.items() if path in wanted}"

MODES = {
    GradMode.GRAD: "torch.enable_grad()",
    GradMode.NO_GRAD: "torch.no_grad()",
    GradMode.INFERENCE: "torch.inference_mode()",
}


def script(
    case: Case, failure: Failure, verdict: Verdict, artifact: str, rerun: Rerun | None
) -> str:
    """Return the source of the script; empty if no other process can load such a file.

    ``rerun``: the failing calls; None if loading the file is what fails.
    """
    load = case.traits.script
    loader = loader_of(case.plan.target)
    if not load and loader is not None:
        module, _, attribute = loader.load.partition(":")
        load = f"import {module}\nartifact = {module}.{attribute}(path, device, **asked)\n"
    if not load:
        return ""
    if "asked" in load:
        function = pkgutil.resolve_name(loader.load) if loader is not None else print
        load = f"asked = {taken(function, plain_options(case.plan))!r}\n{load}"
    imports = [line for line in load.splitlines() if line.startswith("import ")]
    load = "\n".join(line for line in load.splitlines() if line not in imports).strip("\n")
    imports += [
        f"import {name}  # the file needs it" for name in case.plan.settings.runtime_imports
    ]
    report = failure_text(verdict, whole=False)
    title = [line.strip() for line in report.splitlines() if line.strip()]
    title += ["", "Ends with 1 if the failure is there, with 0 if it is not."]
    head = HEAD.format(
        imports="".join(f"{line}\n" for line in sorted(imports)),
        device=case.plan.device,
        limit=_limit(case.plan, failure),
        call=CALL,
    )
    if rerun is None:
        end = LOADING.format(file=artifact, load=textwrap.indent(load, "    "))
    else:
        end = _calling(case, failure, verdict, rerun, file=artifact, load=load)
    return commented("\n".join(title)) + head + end


def _calling(case: Case, failure: Failure, verdict: Verdict, rerun: Rerun, **texts: str) -> str:
    """Return the part that makes the calls, or looks at the state at the start."""
    if not rerun.calls:
        found = AT_THE_START
    else:
        found = IN_ORDER if hasattr(case.artifact, "pack_outputs") else AS_LEAVES
        found += WITH_STATE if isinstance(failure, StateDiffers) else ""
    found += SOME if isinstance(failure, StateDiffers) or case.random_paths else ""
    # The tolerances that are not those of torch.testing, by path or for all.
    options = case.plan.options
    given = {"all": (options.rtol, options.atol)}
    if options.rtol is None:
        given = {
            item.path: (item.rtol, item.atol)
            for item in verdict.differences
            if item.rtol is not None and (item.rtol, item.atol) not in DTYPE_TOLERANCES.values()
        }
    table = {path: {"rtol": rtol, "atol": atol} for path, (rtol, atol) in given.items()}
    return CALLING.format(
        calls=len(rerun.calls),
        seed=case.plan.seed,
        mode=MODES[case.reference.served],
        right=rerun.right,
        found=found,
        tolerances=f", **{table!r}" if table else "",
        **texts,
    )


def commented(text: str) -> str:
    """Return the text as lines of comment, whatever characters it has."""
    return "".join(f"# {line}".rstrip() + "\n" for line in visible(text).split("\n"))


def _limit(plan: Plan, failure: Failure) -> str:
    """Return the line that keeps a script from doing to the machine what the artifact does."""
    if isinstance(failure, ArtifactHung):
        limit = f"dump_traceback_later({plan.call_limit:g}, exit=True)"
        return f"\nimport faulthandler\n\nfaulthandler.{limit}\n"
    if isinstance(failure, ArtifactCrashed):
        size = f"{plan.settings.memory_limit or share_of_memory()} * 2**20"
        limit = f"setrlimit(resource.RLIMIT_DATA, ({size}, {size}))"
        return f"\nimport resource\n\nresource.{limit}\n"
    return ""
