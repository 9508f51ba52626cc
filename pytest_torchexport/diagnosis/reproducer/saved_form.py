"""The parts of a script that runs the artifact's file on the failing call."""

from __future__ import annotations

from typing import Any

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis.reproducer.rerun import Rerun
from pytest_torchexport.diagnosis.reproducer.script_text import Limit, Saved
from pytest_torchexport.diagnosis.reproducer.values import Arrays, literal, source_of_call
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.compare import DTYPE_TOLERANCES
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    Failure,
    LoadFailed,
    StateDiffers,
)
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import Verdict


def saved_form(
    case: Case, failure: Failure, verdict: Verdict, seen: Rerun | None, artifact: str
) -> Saved | None:
    """Return the parts; None if the file ``artifact`` does not show the failure.

    Raises Inexpressible for values that cannot be written.
    """
    load = _load(case.plan) if artifact else ""
    not_loaded = (
        isinstance(failure, LoadFailed) and case.saved is not None and case.saved.session is None
    )
    if not load or (seen is None and not not_loaded):
        return None
    report = failure_text(verdict, whole=False)
    parts: dict[str, Any] = {
        "title": [line.strip() for line in report.splitlines() if line.strip()],
        "file": artifact,
        "device": case.plan.device,
        "load": load,
        "imports": case.plan.settings.runtime_imports,
        "limit": _limit(case.plan, failure),
        "seed": case.plan.seed,
    }
    if seen is None:
        return Saved(**parts)
    inputs = Arrays("call")
    sides = {"eager": seen.eager, "artifact": seen.artifact}
    wanted, other = (Arrays.of(name, sides[name]) for name in sorted(sides, key=seen.right.__ne__))
    return Saved(
        **parts,
        calls=_calls(case, seen, inputs),
        inputs=inputs,
        wanted=wanted,
        other=other,
        constants={
            path: literal(leaf, path)
            for path, leaf in seen.wanted.items()
            if path not in wanted.held
        },
        in_order=hasattr(case.artifact, "pack_outputs"),
        some=bool(case.random_paths),
        state=isinstance(failure, StateDiffers),
        **_tolerances(case.plan, verdict),
    )


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
        return Limit.of_time(plan.settings.call_limit)
    if isinstance(failure, ArtifactCrashed):
        return Limit.of_memory(plan.settings.memory_limit or share_of_memory())
    return None


def _calls(case: Case, seen: Rerun, inputs: Arrays) -> list[str]:
    """Return the source of each call; a call that is made again has the same tensors."""
    different: list[Call] = []
    sources = []
    for call in seen.calls:
        if not any(call is other for other in different):
            different.append(call)
        number = next(n for n, other in enumerate(different, start=1) if other is call)
        of_call = f" of call {number}" if number > 1 else ""
        names = {id(leaf): f"{path}{of_call}" for path, leaf in case.spec.flatten(call)}
        sources.append(source_of_call(seen.pack(call), names, inputs))
    return sources


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
