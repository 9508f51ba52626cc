"""The script of the guilty submodule alone, with its weights and inputs.

For a model that cannot be shared. It may not fail alone: ``shows`` tells, in a process of its own,
and a script that does not is removed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.reproducer.embedded import Embedded
from pytest_torchexport.diagnosis.reproducer.exports import Exported, text_of_export
from pytest_torchexport.diagnosis.reproducer.forms import EXAMPLE, Shown, apart
from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.objects import Arguments, Objects
from pytest_torchexport.diagnosis.reproducer.rerun import REPEATS
from pytest_torchexport.diagnosis.reproducer.script_text import Script
from pytest_torchexport.diagnosis.reproducer.values import Arrays, Inexpressible
from pytest_torchexport.inputs.pytrees import copy_argument, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.fork import can_fork, in_fork
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import signature_of
from pytest_torchexport.results.verdict import Verdict
from pytest_torchexport.torch_private.circumstances import set_default_device

# Runs the export on the tensors of a call alone: by position, or by the names of a graph's inputs.
BY_TENSORS = '''

whole = artifact


def artifact(*args, **kwargs):
    """Run it on the tensors of a call."""
    tensors = [x for x in leaves((args, kwargs)).values() if torch.is_tensor(x)]
    return whole({given})
'''


def reduced_form(case: Case, verdict: Verdict, shown: Shown) -> Script:
    """Return the script of the submodule that the diagnosis names. Raises Inexpressible."""
    place = verdict.diagnosis.place
    path = place.module.rpartition(" (")[0] if place is not None else ""
    seen = shown.seen
    if not path or seen is None or len(set(map(id, seen.calls))) != 1:
        raise Inexpressible("the diagnosis names no submodule and call")
    example, _, part = _within(case, path, case.call_to_export())
    failing, value, _ = _within(case, path, seen.calls[0])
    if _constants(example) != _constants(failing):
        raise Inexpressible(f"{path} gets numbers that the whole model makes constants")
    names = Embedded(Importable(Path.cwd()))
    inputs, weights = shown.inputs, Arrays("reduced_weights")
    definitions = Objects(weights, names.name).model(part)
    values = Arguments(inputs, names.name)
    called, call = values.call(example), values.call(failing)
    axes = _axes(example, failing)
    subject = case.reference.pristine
    text = text_of_export(
        case.plan.target,
        Exported(
            function=part,
            source="net",
            owner="",
            example=example,
            shapes=_shapes(part, example, axes),
            axes=[{n: f"input_{i}_{n}" for n in each} for i, each in enumerate(axes.values())],
            options={},
            mode=subject.grad_mode,
        ),
    )
    of_library, _ = apart(targets.get(case.plan.target).traits.script)
    modules = [*of_library, *(f"import {name}" for name in names.imports.installed)]
    graph = hasattr(case.artifact, "pack_outputs")
    given = "**dict(zip((x.name for x in session.get_inputs()), tensors))" if graph else "*tensors"
    flat = graph or "Flat(" in text.make
    return Script(
        title=[f"{verdict.failure}: {path} alone, exported as {case.plan.target}"],
        device=case.plan.device,
        seed=case.plan.seed,
        make=f"net = model()\n{text.make}{BY_TENSORS.format(given=given) if flat else ''}",
        imports=[*modules, *(["import tempfile"] if "tempfile." in text.make else [])],
        project=names.text(),
        definitions="".join(
            (definitions, EXAMPLE.format(read=inputs.read(), call=called), text.definitions)
        ),
        calls=[call] * REPEATS,
        eager="model()",
        inputs=inputs,
        weights=weights,
        outputs=[path for path, _ in flatten(value, "output")[0]] if graph else None,
        mode=subject.grad_mode,
        served=case.reference.served,
    )


def shows(script: Path, seconds: float) -> bool:
    """Return True if a script shows its failure in a process of its own, within that time.

    That is a fork of this one, which has torch and the exporters already: importing them takes
    longer than all else. A fork also has what the user's modules register: where the script calls
    operators that are not torch's, or an exporter that takes symbolics of this process, and where
    there is no fork, it is a new interpreter.
    """
    if can_fork() and not _REGISTERED.search(script.read_text(encoding="utf-8")):
        return in_fork(lambda: _ran(script), seconds) is True
    try:
        ran = subprocess.run(  # noqa: S603  # our own interpreter and text
            [sys.executable, "-P", script.name],
            cwd=script.parent,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return _is_shown(ran.returncode, ran.stdout)


_REGISTERED = re.compile(r"torch\.ops\.(?!aten\b|prims\b)\w+\.\w+|dynamo=False")


def _ran(script: Path) -> bool:
    """Return True if the script, run in this process, shows its failure."""
    printed = io.BytesIO()
    # As a new interpreter has them.
    torch.set_default_dtype(torch.float32)
    set_default_device(None)
    os.chdir(script.parent)
    code: object = 0
    with contextlib.redirect_stdout(io.TextIOWrapper(printed, encoding="utf-8")) as stream:
        try:
            runpy.run_path(script.name, run_name="__main__")
        except SystemExit as error:
            code = error.code
        stream.flush()
    return _is_shown(code, printed.getvalue())


def _is_shown(code: object, printed: bytes) -> bool:
    return code == 1 and b"The failure is there" in printed


def _within(case: Case, path: str, call: Call) -> tuple[Call, Any, torch.nn.Module]:
    """Return the first call of a submodule within a call of eager, its value, and the submodule."""
    subject = case.reference.pristine.copy().to(case.plan.device)
    try:
        part = subject.module.get_submodule(path) if subject.module is not None else None
    except AttributeError:
        part = None
    if part is None:
        raise Inexpressible(f"there is no submodule {path}")
    found: list[tuple[Call, Any]] = []

    def keep(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        if not found:
            found.append((Call(*copy_argument((args, dict(kwargs)))), value))

    with part.register_forward_hook(keep, with_kwargs=True):
        outcome = observe(
            subject.function,
            call.to(case.plan.device),
            seed=case.plan.seed,
            grad_mode=subject.grad_mode,
        )
    if not found or not isinstance(outcome, Returned):
        raise Inexpressible(f"{path} is not called")
    fresh = case.reference.pristine.copy().to(case.plan.device).module
    assert fresh is not None
    return *found[0], fresh.get_submodule(path)


def _constants(call: Call) -> str:
    """Return the arguments that are no tensors, as a text."""
    leaves = call.flatten()[0]
    return repr([(path, leaf) for path, leaf in leaves if not isinstance(leaf, torch.Tensor)])


def _axes(example: Call, failing: Call) -> dict[int, list[int]]:
    """Return for each tensor of the example, by id, the axes whose size is another one."""
    pairs = zip(example.tensors(), failing.tensors(), strict=False)
    return {
        id(one): [n for n, (a, b) in enumerate(zip(one.shape, other.shape, strict=False)) if a != b]
        for one, other in pairs
    }


def _shapes(part: torch.nn.Module, example: Call, axes: Mapping[int, list[int]]) -> Any:
    """Return dynamic_shapes with these axes; None if no size varies. Raises Inexpressible."""
    if not any(axes.values()):
        return None
    signature = signature_of(part)
    names = list(signature.parameters) if signature is not None else []
    kinds = {item.kind for item in signature.parameters.values()} if signature is not None else ()
    if not names or inspect.Parameter.VAR_POSITIONAL in kinds:
        raise Inexpressible("the submodule's arguments have no names")
    named = {**dict(zip(names, example.args, strict=False)), **example.kwargs}
    return {name: _shape(value, axes) for name, value in named.items()}


def _shape(value: Any, axes: Mapping[int, list[int]]) -> Any:
    if isinstance(value, torch.Tensor):
        return dict.fromkeys(axes.get(id(value), ()), torch.export.Dim.DYNAMIC) or None
    if isinstance(value, Mapping):
        return {key: _shape(item, axes) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_shape(item, axes) for item in value)
    return None
