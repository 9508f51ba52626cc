"""The text of a script that shows a failure: it makes the artifact, makes the call, and compares.

Two forms have this text in common: one loads the artifact's file and reads eager's results, the
other one builds the model from the user's source, runs it, and exports it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.diagnosis.reproducer.objects import FILLED, MADE
from pytest_torchexport.diagnosis.reproducer.values import Arrays, quoted, source_of_dict
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.results.escaped import visible

HEAD = """
{standard}

{imports}

HERE = Path(__file__).parent
device = {device}
torch.set_num_threads(1)
"""

READ = '''

def read(file):
    """Return the tensors of a file by name."""
    with numpy.load(HERE / file) as arrays:
        return {name: torch.from_numpy(arrays[name]).to(device) for name in arrays}
'''

READ_AS = '''

def read(file, dtypes={}):
    """Return the tensors of a file by name; ``dtypes`` are those that numpy lacks."""
    with numpy.load(HERE / file) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return {name: x.view(dtypes.get(name, x.dtype)).to(device) for name, x in found.items()}
'''

CALLS = '''

def calls():
    """Yield the arguments of each call."""
'''

OWN_CALLS = '''

def own_calls():
    """Yield the same calls as the artifact takes them."""
'''

LEAVES = '''

def leaves(value, path="output"):
    """Return what tuples, lists and dicts hold, by path."""
    if isinstance(value, dict):
        parts = {f"[{key!r}]": part for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {f"[{number}]": part for number, part in enumerate(value)}
    else:
        return {path: value}
    return {k: leaf for key, part in parts.items() for k, leaf in leaves(part, path + key).items()}
'''

STATE = '''

def state(thing):
    """Return the parameters and buffers of a module by name."""
    if not isinstance(thing, torch.nn.Module):
        return {}
    named = {"parameter": thing.named_parameters(), "buffer": thing.named_buffers()}
    return {
        f"{kind} {name.removeprefix('owner.')}": tensor.detach()
        for kind, tensors in named.items()
        for name, tensor in tensors
    }
'''

COMPARE = '''

def compare(wanted, found):
    """Print what differs. Return 1 if anything does."""
    differs = 0
    for path in {**wanted, **found}:
        left, right = wanted.get(path, "nothing"), found.get(path, "nothing")
        try:
            if torch.is_tensor(left) and torch.is_tensor(right):
                torch.testing.assert_close(right, left, equal_nan=True{tolerance})
            else:
                assert repr(left) == repr(right), f"{right!r} instead of {left!r}"
        except AssertionError as error:
            print(f"{path}: {error}\\n")
            differs = 1
    print("The failure is there." if differs else "The failure is not there.")
    return differs
'''

RAISED = """\
except Exception:
    traceback.print_exc(file=sys.stdout)
    print("The failure is there: {what}.")
    sys.exit(1)
"""

# What a graph returns for eager's outputs: tensors alone, in order.
AS_TENSORS = """\
wanted = {path: torch.as_tensor(wanted[path]).to(device) for path in outputs}
wanted = {k: torch.view_as_real(x) if x.is_complex() else x for k, x in wanted.items()}
"""

MODES = {
    GradMode.GRAD: "torch.enable_grad()",
    GradMode.NO_GRAD: "torch.no_grad()",
    GradMode.INFERENCE: "torch.inference_mode()",
}


@dataclass(frozen=True)
class Limit:
    """A limit of time or memory: the line that sets it, and the module that it needs."""

    module: str
    line: str

    @classmethod
    def of_time(cls, seconds: float) -> Limit:
        """Return a limit after which the script prints where it is, and ends."""
        return cls("faulthandler", f"faulthandler.dump_traceback_later({seconds:g}, exit=True)")

    @classmethod
    def of_memory(cls, megabytes: int) -> Limit:
        """Return a limit beyond which no memory can be allocated."""
        size = f"{megabytes} * 2**20"
        return cls("resource", f"resource.setrlimit(resource.RLIMIT_DATA, ({size}, {size}))")


@dataclass(frozen=True, kw_only=True)
class Script:
    """All that the text of a script is made of.

    ``title`` are lines on the failure. ``make`` is the source that makes ``artifact``, after
    ``start``; ``making`` says what is wrong if ``make`` raises and is what fails. ``imports`` are
    modules, ``project`` is source that comes after them, and ``definitions`` are functions.

    ``calls`` is the source of each call: None if making the artifact is what fails, none if the
    state at the start is. ``own_calls``: the same in the form of the artifact, if that is another
    one. ``eager``: the expression of the model that is to be run; if empty, its results are read
    from ``wanted``. ``constants`` are results that are no tensors, as source.

    ``outputs`` are paths of what the artifact returns as a list, in order. ``only``: the paths that
    are compared; if empty, all. ``state``: inputs and state after the call are among the results.
    ``tolerances`` and ``usual``: where they are not those of ``torch.testing``, by path and for
    all. ``served``: the grad mode of the artifact's calls, ``mode`` of eager's.
    """

    title: Sequence[str]
    device: str
    make: str
    making: str = ""
    start: str = ""
    imports: Sequence[str] = ()
    project: str = ""
    definitions: str = ""
    limit: Limit | None = None
    seed: int = 0
    calls: Sequence[str] | None = None
    own_calls: Sequence[str] = ()
    eager: str = ""
    inputs: Arrays = field(default_factory=lambda: Arrays("call"))
    wanted: Arrays = field(default_factory=lambda: Arrays("eager"))
    other: Arrays = field(default_factory=lambda: Arrays("artifact"))
    weights: Arrays = field(default_factory=lambda: Arrays("weights"))
    constants: Mapping[str, str] = field(default_factory=dict)
    outputs: Sequence[str] | None = None
    only: Sequence[str] = ()
    state: bool = False
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    usual: tuple[float, float] | None = None
    served: GradMode = GradMode.NO_GRAD
    mode: GradMode = GradMode.NO_GRAD

    @property
    def own(self) -> tuple[Arrays, ...]:
        """The files that a form without saved results has."""
        return self.inputs, self.weights

    @property
    def files(self) -> tuple[Arrays, ...]:
        """The files with tensors."""
        return self.inputs, self.wanted, self.other, self.weights


def text_of_script(script: Script) -> str:
    """Return the text of a script that ends with 1 if the failure is there, and with 0 if not."""
    return re.sub(r"\n{4,}", "\n\n\n", "".join(_parts(script)))


def commented(text: str) -> str:
    """Return the text as lines of comment, whatever characters it has."""
    return "".join(f"# {line}".rstrip() + "\n" for line in visible(text).split("\n"))


def _parts(script: Script) -> Iterator[str]:
    ends = "Ends with 1 if the failure is there, with 0 if it is not."
    yield commented("\n".join((*script.title, "", ends)))
    standard = {"import random", "import sys", "import traceback"}
    if script.limit:
        standard.add(f"import {script.limit.module}")
    yield HEAD.format(
        standard="\n".join([*sorted(standard), "from pathlib import Path"]),
        imports="\n".join(sorted({"import numpy", "import torch", *script.imports})),
        device=quoted(script.device),
    )
    yield f"{script.limit.line}\n" if script.limit else ""
    yield f"\n{script.project}\n" if script.project else ""
    yield READ_AS if any(arrays.dtypes for arrays in script.files) else READ
    source = "".join((script.definitions, *(script.calls or ()), *script.own_calls))
    yield MADE if "made(" in source else ""
    yield FILLED if "filled(" in source else ""
    yield script.definitions
    if script.calls:
        yield CALLS + "".join(_calls(script.calls, script.inputs))
        if script.own_calls:
            yield OWN_CALLS + "".join(_calls(script.own_calls, script.inputs))
    if script.calls is not None:
        yield LEAVES + (STATE if script.state else "") + _compare(script)
    yield "\n\n"
    yield script.start
    if script.making:
        yield f"try:\n{_indented(script.make)}{RAISED.format(what=script.making)}"
    else:
        yield script.make
    if script.calls is None:
        yield 'print("The failure is not there.")\n'
        return
    yield from _wanted(script)
    yield from _found(script)
    yield "sys.exit(compare(wanted, found))\n"


def _compare(script: Script) -> str:
    """Return the function that compares, with tolerances that are not those of torch.testing."""
    usual = "" if script.usual is None else f"rtol={script.usual[0]}, atol={script.usual[1]}"
    if not script.tolerances:
        return COMPARE.replace("{tolerance}", usual and f", {usual}")
    own = {path: f"dict(rtol={r}, atol={a})" for path, (r, a) in script.tolerances.items()}
    table = f"tolerances = {source_of_dict(own)}\n"
    return f"\n\n{table}{COMPARE}".replace("{tolerance}", ", **tolerances.get(path, {})")


def _calls(calls: Sequence[str], inputs: Arrays) -> Iterator[str]:
    """Yield the body of ``calls``. Each call has tensors of its own, as it may write to them."""
    for source, alike in itertools.groupby(calls):
        number = len(list(alike))
        indent = " " * 4
        if number > 1:
            yield f"{indent}for _ in range({number}):\n"
            indent *= 2
        yield f"{indent}x = {inputs.read()}\n{indent}yield {source}\n"


def _run(name: str, calls: str, mode: GradMode, seed: int) -> str:
    """Return the source that makes the calls; each is seeded as in the run that failed."""
    return (
        f"for args, kwargs in {calls}():\n"
        f"    torch.manual_seed({seed}), random.seed({seed}), numpy.random.seed({seed % 2**32})\n"
        f"    with {MODES[mode]}:\n"
        f"        value = {name}(*args, **kwargs)\n"
    )


def _wanted(script: Script) -> Iterator[str]:
    """Yield the source of the right results, by path."""
    yield "\n"
    if not script.eager:
        more = f" | {source_of_dict(script.constants)}" if script.constants else ""
        yield f"wanted = {script.wanted.read()}{more}\n"
        return
    yield "# The model in eager mode.\n"
    yield f"eager = {script.eager}\n"
    if not script.calls:
        yield "wanted = state(eager)\n"
    else:
        yield _run("eager", "calls", script.mode, script.seed)
        yield "wanted = leaves(value)\n"
        if script.outputs is not None:
            yield f"outputs = {list(script.outputs)!r}\n{AS_TENSORS}"
        if script.state:
            own = "" if script.own_calls else 'leaves((args, kwargs), "inputs") | '
            yield f"wanted |= {own}state(eager)\n"
    if script.only:
        yield f"compared = {list(script.only)!r}\n"
        yield "wanted = {path: wanted[path] for path in compared}\n"


def _found(script: Script) -> Iterator[str]:
    """Yield the source of the artifact's results, by path."""
    if not script.calls:
        yield "found = state(artifact)\n"
        yield "found = {path: leaf for path, leaf in found.items() if path in wanted}\n"
        return
    yield "\n# The artifact.\n" if script.eager else ""
    calls = "own_calls" if script.own_calls else "calls"
    run = _run("artifact", calls, script.served, script.seed)
    yield f"try:\n{_indented(run)}{RAISED.format(what='the artifact raises')}"
    if script.outputs is not None and script.eager:
        yield "same = len(value) == len(outputs)\n"
        yield "found = dict(zip(outputs, value)) if same else leaves(value)\n"
    elif script.outputs is not None:
        yield 'outputs = [path for path in wanted if path.startswith("output")]\n'
        yield "same = len(value) == len(outputs)\n"
        yield "found = dict(zip(outputs, value)) if same else leaves(value)\n"
    else:
        yield "found = leaves(value)\n"
    if script.state:
        own = "" if script.own_calls else 'leaves((args, kwargs), "inputs") | '
        yield f"found |= {own}state(artifact)\n"
    if script.state or script.only:
        yield "found = {path: leaf for path, leaf in found.items() if path in wanted}\n"


def _indented(source: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in source.splitlines(True))
