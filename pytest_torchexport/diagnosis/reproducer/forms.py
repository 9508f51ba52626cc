"""The two forms of a failure's script: of the saved files alone, and of the user's source.

Each is a Script, whose text ``script_text.py`` writes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.reproducer.exports import Exported, text_of_export
from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.objects import Arguments, Objects
from pytest_torchexport.diagnosis.reproducer.rerun import Rerun
from pytest_torchexport.diagnosis.reproducer.script_text import Limit, Script
from pytest_torchexport.diagnosis.reproducer.values import (
    Arrays,
    Expressions,
    Inexpressible,
    literal,
    quoted,
)
from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.explain import DEADLY
from pytest_torchexport.outcomes.compare import DTYPE_TOLERANCES
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.subject import Subject, signature_of
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ExportRefused,
    Failure,
    LoadFailed,
    RoundTripDiffers,
    StateDiffers,
)
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import Verdict

EXAMPLE = '''

def example():
    """Return the call that the artifact is exported at."""
    x = {read}
    return {call}
'''


@dataclass(frozen=True)
class Shown:
    """The parts of a form beside the verdict, as far as there are any.

    ``seen``: the failing calls with their results. ``inputs``: the file with their tensors, which
    the forms share. ``artifact``: the name of the artifact's file.
    """

    seen: Rerun | None
    inputs: Arrays
    artifact: str = ""


def saved_form(case: Case, failure: Failure, verdict: Verdict, shown: Shown) -> Script:
    """Return the form that loads the artifact's file, and needs no source.

    Raises Inexpressible if the file does not show the failure, or a value cannot be written.
    """
    seen = shown.seen
    load = _load(case.plan) if shown.artifact else ""
    not_loaded = (
        isinstance(failure, LoadFailed) and case.saved is not None and case.saved.session is None
    )
    if not load:
        raise Inexpressible("there is no file of the artifact that another process could load")
    if seen is None and not not_loaded:
        raise Inexpressible("no call of the saved file shows this failure")
    imports, rest = apart(load)
    registers = case.plan.settings.runtime_imports
    script = Script(
        **_basis(case.plan, failure, verdict),
        make=f"path = HERE / {quoted(shown.artifact)}\n{rest}",
        imports=[*imports, *(f"import {name}  # the file needs it" for name in registers)],
        served=case.reference.served,
        making="the file does not load" if seen is None else "",
    )
    if seen is None:
        return script
    sides = {"eager": seen.eager, "artifact": seen.artifact}
    wanted, other = (Arrays.of(name, sides[name]) for name in sorted(sides, key=seen.right.__ne__))
    return dataclasses.replace(
        script,
        calls=_calls(case, seen.calls, seen.pack, Expressions(shown.inputs)),
        inputs=shown.inputs,
        wanted=wanted,
        other=other,
        constants={
            path: literal(leaf, path)
            for path, leaf in seen.wanted.items()
            if path not in wanted.held
        },
        outputs=() if hasattr(case.artifact, "pack_outputs") else None,
        only=tuple(seen.wanted) if case.random_paths else (),
        state=isinstance(failure, StateDiffers),
    )


def source_form(prepared: Prepared, failure: Failure, verdict: Verdict, shown: Shown) -> Script:
    """Return the form that builds the model from the user's source, exports it and runs both.

    Raises Inexpressible if that does not show the failure, or something cannot be written.
    """
    plan, subject = prepared.plan, prepared.reference.pristine
    _raise_if_not_of_the_source(prepared, failure, shown.seen)
    weights, names = Arrays("weights"), Importable(plan.root or Path.cwd())
    source, owner = _subject(subject, names)
    objects = Objects(weights, names.name)
    definitions = objects.model(subject.module) if subject.module is not None else ""
    example, values = prepared.call_to_export(), Arguments(shown.inputs, names.name)
    (called,) = _calls(prepared, [example], None, values, " of the example")
    text = text_of_export(
        plan.target,
        Exported(
            function=subject.function,
            source=source,
            owner=owner,
            example=example,
            shapes=_shapes(prepared, example),
            axes=_axes(prepared),
            options=(plan.options.export_options or {}).get(plan.target, {}),
            mode=subject.grad_mode,
        ),
    )
    eager = re.sub(r"^net\b", "model()", source)
    steps: dict[str, Any] = _steps(prepared, failure, text.make)
    files = ["import tempfile"] if "tempfile." in f"{steps}" else []
    seen = shown.seen
    compared = _compared(prepared, seen, values) if isinstance(prepared, Case) and seen else {}
    of_library, _ = apart(targets.get(plan.target).traits.script)
    modules = [*of_library, *(f"import {name}" for name in names.installed)]
    return Script(
        **_basis(plan, failure, verdict),
        **steps,
        imports=[*modules, *files],
        project=names.project(),
        definitions="".join(
            (definitions, EXAMPLE.format(read=shown.inputs.read(), call=called), text.definitions)
        ),
        eager=eager,
        inputs=shown.inputs,
        weights=weights,
        mode=subject.grad_mode,
        served=prepared.reference.served,
        state=isinstance(failure, StateDiffers),
        **compared,
    )


def _steps(prepared: Prepared, failure: Failure, make: str) -> dict[str, str]:
    """Return the parts of a script of the source that make the artifact."""
    net = "net = model()\n" if prepared.reference.pristine.module is not None else ""
    if isinstance(failure, ExportRefused):
        return {"start": net, "make": make, "making": "the export raises"}
    if isinstance(failure, LoadFailed):
        save = 'torch.jit.save(artifact, Path(tempfile.mkdtemp(), "model.pt"))\n'
        return {"start": f"{net}{make}", "make": save, "making": "the artifact cannot be saved"}
    return {"start": net, "make": make}


def _raise_if_not_of_the_source(prepared: Prepared, failure: Failure, seen: Rerun | None) -> None:
    """Raise Inexpressible if a new export in one process cannot show the failure."""
    unsaved = isinstance(prepared, Case) and prepared.saved is None and not prepared.foreign
    torchscript = prepared.plan.target in ("trace", "script")
    if isinstance(failure, ExportRefused) or (
        isinstance(failure, LoadFailed) and unsaved and torchscript
    ):
        return
    if isinstance(failure, RoundTripDiffers | LoadFailed):
        raise Inexpressible("the failure shows in a process that does not have the model's source")
    saved = prepared.saved if isinstance(prepared, Case) else None
    if isinstance(failure, DEADLY) and saved is not None and saved.session is None:
        raise Inexpressible("the failure shows while the file is loaded")
    if not isinstance(prepared, Case) or prepared.foreign or seen is None:
        raise Inexpressible("no call of a new export shows this failure")


def _compared(case: Case, seen: Rerun, values: Expressions) -> dict[str, Any]:
    """Return the parts of a script of the source about its calls and their results."""
    calls = _calls(case, seen.calls, None, values)
    own = _calls(case, seen.calls, seen.pack, values)
    # Inputs after a call have the paths of the form in which the artifact takes them.
    paths = [path for path in seen.eager if own == calls or not path.startswith("inputs")]
    if not set(paths).intersection(seen.differing):
        raise Inexpressible("what differs are inputs, which the artifact takes in another form")
    ordered = hasattr(case.artifact, "pack_outputs")
    some = len(paths) < len(seen.eager) or case.random_paths or case.reference.caches
    return {
        "calls": calls,
        "own_calls": () if own == calls else own,
        "outputs": [path for path in paths if path.startswith("output")] if ordered else None,
        "only": paths if some or any(not path.startswith("output") for path in paths) else (),
    }


def _basis(plan: Plan, failure: Failure, verdict: Verdict) -> dict[str, Any]:
    report = failure_text(verdict, whole=False)
    return {
        "title": [line.strip() for line in report.splitlines() if line.strip()],
        "device": plan.device,
        "limit": _limit(plan, failure),
        "seed": plan.seed,
        **_tolerances(plan, verdict),
    }


def apart(source: str) -> tuple[list[str], str]:
    """Return the imports of a source, and the rest of it."""
    lines = source.splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    rest = "\n".join(line for line in lines if line not in imports).strip("\n")
    return imports, f"{rest}\n"


def _load(plan: Plan) -> str:
    """Return the source that loads the artifact's file; nothing if no other process can."""
    source = targets.get(plan.target).traits.script
    loader = loading.loader_of(plan.target)
    if source or loader is None:
        return source
    module, _, attribute = loader.load.partition(":")
    return f"import {module}\nartifact = {module}.{attribute}(path, device)\n"


def _limit(plan: Plan, failure: Failure) -> Limit | None:
    if isinstance(failure, ArtifactHung):
        return Limit.of_time(plan.call_limit)
    if isinstance(failure, ArtifactCrashed):
        return Limit.of_memory(plan.settings.memory_limit or share_of_memory())
    return None


def _subject(subject: Subject, names: Importable) -> tuple[str, str]:
    """Return the expression of the subject, and that of the module whose method it is."""
    if subject.module is None:
        return names.name(subject.function), ""
    if subject.function is subject.module:
        return "net", ""
    if not inspect.ismethod(subject.function):
        raise Inexpressible(f"{subject.name} is no method of its module")
    return f"net.{subject.function.__name__}", "net"


def _calls(
    prepared: Prepared,
    calls: Sequence[Call],
    pack: Callable[[Call], Call] | None,
    expressions: Expressions,
    of_what: str = "",
) -> list[str]:
    """Return the source of each call; a call that is made again has the same tensors."""
    different: list[Call] = []
    sources = []
    for call in calls:
        if not any(call is other for other in different):
            different.append(call)
        number = next(n for n, other in enumerate(different, start=1) if other is call)
        of_call = f" of call {number}" if number > 1 else of_what
        names = {id(leaf): f"{path}{of_call}" for path, leaf in prepared.spec.flatten(call)}
        expressions.names = names
        sources.append(expressions.call(call if pack is None else pack(call)))
    return sources


def _shapes(prepared: Prepared, example: Call) -> Any:
    """Return the dynamic_shapes of the export; of one that was refused, those tried first."""
    if isinstance(prepared, Case):
        return getattr(prepared.artifact, "dynamic_shapes", None)
    signature = signature_of(prepared.reference.pristine.function)
    return next(iter(dynamic_shapes(prepared.spec, example, signature)), None)


def _axes(prepared: Prepared) -> list[Mapping[int, str]]:
    """Return for each tensor of a call the axes that vary, with a name."""
    return [
        {
            axis: item.text if item.text in item.names else f"input_{number}_{axis}"
            for axis, item in enumerate(leaf.shape)
            if item.names
        }
        for number, leaf in enumerate(prepared.spec.tensors)
    ]


def _tolerances(plan: Plan, verdict: Verdict) -> dict[str, Any]:
    """Return the tolerances that are not those of ``torch.testing``, by path or for all."""
    if plan.options.rtol is not None:
        return {"usual": (plan.options.rtol, plan.options.atol)}
    found = {
        item.path: (item.rtol, item.atol)
        for item in verdict.differences
        if item.rtol is not None and (item.rtol, item.atol) not in DTYPE_TOLERANCES.values()
    }
    return {"tolerances": found}
