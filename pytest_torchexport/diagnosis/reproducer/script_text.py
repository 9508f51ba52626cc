"""The text of ``reproduce.py``: it loads the artifact's file, makes the call, and compares."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.diagnosis.reproducer.values import Arrays, quoted, source_of_dict

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

def state():
    """Return the parameters and buffers of the artifact by name."""
    if not isinstance(artifact, torch.nn.Module):
        return {}
    named = {"parameter": artifact.named_parameters(), "buffer": artifact.named_buffers()}
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

MAKE_CALLS = """
for args, kwargs in calls():
    torch.manual_seed({seed})
    with torch.no_grad():
        value = artifact(*args, **kwargs)
"""


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
class Saved:
    """All that a script needs to run an artifact's file on a failing call.

    ``title`` are lines on the failure. ``load`` is the source that loads ``file`` as ``artifact``,
    after ``imports`` that register what it needs. ``calls`` is the source of each call: None if
    loading is what fails, none if the state at the start is. ``inputs`` and ``wanted`` are the
    files with the tensors of the calls and of the right results, and ``other`` has those of the
    other side; ``constants`` are right results that are no tensors, as source. ``in_order``: the
    artifact returns a list of the results. ``some``: it returns others too. ``state``: inputs and
    state after the call are among the results. ``tolerances`` and ``usual``: where they are not
    those of ``torch.testing``, by path and for all.
    """

    title: Sequence[str]
    file: str
    device: str
    load: str
    imports: Sequence[str] = ()
    limit: Limit | None = None
    seed: int = 0
    calls: Sequence[str] | None = None
    inputs: Arrays = field(default_factory=lambda: Arrays("call"))
    wanted: Arrays = field(default_factory=lambda: Arrays("eager"))
    other: Arrays = field(default_factory=lambda: Arrays("artifact"))
    constants: Mapping[str, str] = field(default_factory=dict)
    in_order: bool = False
    some: bool = False
    state: bool = False
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    usual: tuple[float, float] | None = None


def script(saved: Saved) -> str:
    """Return the text of a script that ends with 1 if the failure is there, and with 0 if not."""
    return re.sub(r"\n{4,}", "\n\n\n", "".join(_parts(saved)))


def _parts(saved: Saved) -> Iterator[str]:
    for line in (*saved.title, "", "Ends with 1 if the failure is there, with 0 if it is not."):
        yield f"# {line}".rstrip() + "\n"
    load = saved.load.splitlines()
    imports = [line for line in load if line.startswith("import ")]
    standard = ["import sys", *([f"import {saved.limit.module}"] if saved.limit else [])]
    yield HEAD.format(
        standard="\n".join([*sorted(standard), "from pathlib import Path"]),
        imports="\n".join(
            [
                *sorted({"import numpy", "import torch", *imports}),
                *(f"import {name}  # registers what the file needs" for name in saved.imports),
            ]
        ),
        device=quoted(saved.device),
    )
    yield f"{saved.limit.line}\n" if saved.limit else ""
    yield f"path = HERE / {quoted(saved.file)}\n"
    yield "\n".join(line for line in load if line not in imports).strip() + "\n"
    if saved.calls is None:
        yield 'print("The failure is not there: the file was loaded.")\n'
        return
    yield READ_AS if saved.inputs.dtypes or saved.wanted.dtypes else READ
    if saved.calls:
        yield CALLS + "".join(_calls(saved))
    yield LEAVES + (STATE if saved.state else "") + _compare(saved)
    yield f"\n\nwanted = {_read(saved.wanted)}{_constants(saved.constants)}\n"
    if saved.calls:
        yield MAKE_CALLS.format(seed=saved.seed)
        yield from _found(saved)
    else:
        yield "found = state()\n"
    yield "sys.exit(compare(wanted, found))\n"


def _compare(saved: Saved) -> str:
    """Return the function that compares, with tolerances that are not those of torch.testing."""
    usual = "" if saved.usual is None else f"rtol={saved.usual[0]}, atol={saved.usual[1]}"
    if not saved.tolerances:
        return COMPARE.replace("{tolerance}", usual and f", {usual}")
    own = {path: f"dict(rtol={r}, atol={a})" for path, (r, a) in saved.tolerances.items()}
    table = f"tolerances = {source_of_dict(own)}\n"
    return f"\n\n{table}{COMPARE}".replace("{tolerance}", ", **tolerances.get(path, {})")


def _calls(saved: Saved) -> Iterator[str]:
    """Yield the body of ``calls``. Each call has tensors of its own, as it may write to them."""
    for source, alike in itertools.groupby(saved.calls or ()):
        number = len(list(alike))
        indent = " " * 4
        if number > 1:
            yield f"{indent}for _ in range({number}):\n"
            indent *= 2
        yield f"{indent}x = {_read(saved.inputs)}\n{indent}yield {source}\n"


def _found(saved: Saved) -> Iterator[str]:
    if saved.in_order:
        yield 'outputs = [path for path in wanted if path.startswith("output")]\n'
        yield "same = len(value) == len(outputs)\n"
        yield "found = dict(zip(outputs, value)) if same else leaves(value)\n"
    else:
        yield "found = leaves(value)\n"
    if saved.state:
        yield 'found |= leaves((args, kwargs), "inputs") | state()\n'
    if saved.state or saved.some:
        yield "found = {path: leaf for path, leaf in found.items() if path in wanted}\n"


def _read(arrays: Arrays) -> str:
    if not arrays.held:
        return "{}"
    dtypes = {name: str(dtype) for name, dtype in arrays.dtypes.items()}
    return f'read("{arrays.name}.npz"{f", {source_of_dict(dtypes)}" if dtypes else ""})'


def _constants(constants: Mapping[str, str]) -> str:
    return f" | {source_of_dict(constants)}" if constants else ""
