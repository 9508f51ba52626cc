"""Check one subject on one target: with its reference, its real inputs, its loop, or from a cache.

A library call: it knows nothing of pytest, so it works in a notebook and in a script too.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pytest_torchexport.cache.key import NoKey, key_here
from pytest_torchexport.cache.store import FOREIGN, LOOPS, not_kept, noticed, unless_unchanged
from pytest_torchexport.checks import after_export, exporting
from pytest_torchexport.config import names
from pytest_torchexport.config.flow import FLOW
from pytest_torchexport.config.loop import Loop
from pytest_torchexport.config.options import NAMES, parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import OF_A_RUN, TABLE, settings_from
from pytest_torchexport.config.validate import device_names, target_names
from pytest_torchexport.eager.fingerprint import SHARED, Change, changed, fingerprint, reach
from pytest_torchexport.eager.reference import Learned
from pytest_torchexport.inputs import sources
from pytest_torchexport.inputs.sources import RealInputs
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.item import DEFAULTS, Make, started, verdict_of
from pytest_torchexport.judge import foreign
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.outcomes.subject import (
    LARGE_MODULE,
    Subject,
    tensors_in,
    unwrapped,
    weight_of,
)
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactTooLarge,
    LoadFailed,
    RoundTripDiffers,
    SpecError,
    facts_of,
)
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.two_steps import in_two_steps
from pytest_torchexport.results.verdict import Verdict, with_more
from pytest_torchexport.targets.base import Artifact
from pytest_torchexport.torch_private.memory import end_sharing

# The artifact's files are kept after these failures.
KEPT_AFTER = (ArtifactCrashed, ArtifactHung, ArtifactTooLarge, LoadFailed, RoundTripDiffers)
# Options of a check that a loop has no use for.
NOT_OF_A_LOOP = ("inputs", "reference", "relations")
# The settings of one check, besides the marker's arguments.
SETTINGS = tuple(row.name for row in TABLE if row.name not in (*OF_A_RUN, *NAMES))


def check_export(  # noqa: PLR0913  # each is a word that a user may say
    module: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    target: str,
    device: str = "cpu",
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    diagnose: bool = True,
    **options: Any,
) -> Verdict:
    """Check a module, function or bound method on one target, without pytest.

    ``args`` and ``kwargs`` are the example call of ``forward``. ``options`` are the marker's
    arguments and the settings of a check by their names (``strict=True``, ``time_limit=60``;
    seconds, megabytes). ``keep`` is a directory, made if needed, for the artifact's files after a
    failure that concerns them. Without ``diagnose`` no cause of a failure is looked for, which
    takes up to ten seconds.
    Returns a Verdict, which ``raise_for_failure`` takes. Raises SpecError for an option that is
    wrong in itself, ValueError for an unknown target or device or a wrong setting.
    """
    plan = _plan_of(target, device, seed, keep, options, args, diagnoses=diagnose)
    return check(module, [Call(tuple(args), dict(kwargs or {}))], plan)


def check_loop(  # noqa: PLR0913  # each is a word that a user may say
    step: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    target: str,
    device: str = "cpu",
    steps: int | None = None,
    carry: Mapping[str, str] | None = None,
    feed: Mapping[str, Any] | None = None,
    artifact: Any = None,
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    diagnose: bool = True,
    **options: Any,
) -> Verdict:
    """Check a step that is called in a loop on one target, without pytest.

    ``args`` and ``kwargs`` are the first step's call. ``carry`` maps paths of outputs to the inputs
    that they become in the next step; ``feed`` maps other inputs to a function of what the step
    returns, or to their values from the second step on. ``steps``: 32, or as many as there are
    values. ``artifact``: a file or a callable to check instead of exporting. The other arguments,
    and what is raised, are those of ``check_export``.
    """
    plan = _plan_of(target, device, seed, keep, options, args, diagnoses=diagnose)
    call = Call(tuple(args), dict(kwargs or {}))
    return in_a_loop(step, call, Loop.of(steps, carry, feed), plan, artifact)


def _plan_of(
    target: Any,
    device: Any,
    seed: Any,
    keep: str | os.PathLike[str] | None,
    options: dict[str, Any],
    args: Any,
    *,
    diagnoses: bool,
) -> Plan:
    """Return the plan of a check without pytest."""
    if not isinstance(target, str) or target_names((target,)) != (target,):
        raise ValueError(f"target: {target!r} is not the name of one target")
    if not isinstance(device, str) or device_names((device,)) != (device,):
        raise ValueError(f"device: {device!r} is not the name of one device")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: {seed!r} is not a whole number from 0 to 2**63 - 1")
    if not isinstance(args, (tuple, list)):
        raise SpecError(
            f"args: {type(args).__name__} is not a tuple; give forward's positional arguments "
            "as one, args=(x,)"
        )
    settings = settings_from({name: options.pop(name) for name in SETTINGS if name in options})
    return Plan(
        target=target,
        device=device,
        options=parse_check_options(options),
        settings=settings,
        seed=seed,
        why_isolated="isolate=True" if settings.isolate else "",
        keep=None if keep is None else Path(keep),
        diagnoses=diagnoses,
    )


def check(thing: Any, given: Sequence[Call], plan: Plan, *, is_copy: bool = False) -> Verdict:
    """Return the verdict on one subject, which may be a copy that nobody else has.

    ``given[0]`` is the example; further calls show which sizes vary. With ``torchexport_cache``
    it may be that of an earlier run, if nothing has changed that it depends on.
    """

    def kept(thing: Any, given: Sequence[Call], plan: Plan) -> Verdict:
        run = partial(_judged, thing, given, plan, _exported, is_copy=is_copy)
        return unless_unchanged(run, thing, given, plan) if plan.settings.cache else run()

    return _on_inputs(kept, thing, given, plan)


def _exported(prepared: Prepared) -> Case:
    return after_export.change(prepared, exporting.export(prepared))


def check_artifact(made: Any, thing: Any, example: Call, plan: Plan) -> Verdict:
    """Return the verdict on an artifact that somebody else made: a path, or a callable."""
    judged = partial(_judged, make=partial(foreign.take, made=made), foreign=True)
    verdict = _on_inputs(judged, thing, [example], plan)
    if plan.settings.cache:
        verdict = not_kept(verdict, FOREIGN)
    if verdict.failure not in {cls.__name__ for cls in KEPT_AFTER}:
        return verdict
    with suppress(OSError):  # a name that is too long, a directory that cannot be searched
        if isinstance(made, (str, os.PathLike)) and Path(made).is_file():
            return dataclasses.replace(verdict, kept=short_path(str(made)))
    return verdict


def in_a_loop(step: Any, first: Call, loop: Loop, plan: Plan, made: Any = None) -> Verdict:
    """Return the verdict on a step in a loop. ``made``: an artifact that somebody else made."""
    foreign_made = made is not None
    make = partial(foreign.take, made=made) if foreign_made else _exported
    plan = dataclasses.replace(plan, loop=loop)
    verdict = _checked(step, [first], plan, make, foreign=foreign_made)
    unused = [name for name in NOT_OF_A_LOOP if getattr(plan.options, name) is not None]
    if unused:
        verdict = with_more(
            verdict, cautions=[f"{', '.join(unused)}: not used, the check is of a loop"]
        )
    return not_kept(verdict, LOOPS) if plan.settings.cache else verdict


def export(thing: Any, given: Sequence[Call], plan: Plan) -> Artifact:
    """Return the artifact alone, for asserts of the user's own.

    ``given[0]`` is the example; further calls show which sizes vary. Raises ExportRefused,
    SpecError, CannotJudge.
    """
    given, plan, _ = _with_inputs(thing, given, plan)
    subject = Subject.of(thing, GradMode.current())
    with started(subject, plan, reach(unwrapped(thing)[0])) as item:
        return exporting.export(item.prepare(given)).artifact


def _with_inputs(
    thing: Any, given: Sequence[Call], plan: Plan
) -> tuple[Sequence[Call], Plan, RealInputs]:
    """Return the calls with the real inputs among them, and the plan without. Raises SpecError.

    Read before all else: an item depends on the calls, and not on where they were.
    """
    inputs = plan.options.inputs
    if inputs is None:
        return given, plan, RealInputs()
    subject, root = Subject.of(thing), plan.root or Path.cwd()
    name = type(unwrapped(thing)[0]).__name__
    real = sources.read(inputs, given[0], subject.signature(), name, root)
    if not plan.checks("parity"):
        text = f"inputs: {len(real.calls)} not run: checks= leaves out parity, which runs them"
        real = dataclasses.replace(real, cautions=(*real.cautions, text))
    example = given[:1] if given[0].leaves() else ()
    plan = dataclasses.replace(plan, options=dataclasses.replace(plan.options, inputs=None))
    return [*example, *real.calls, *given[1:]], plan, real


def _on_inputs(
    judged: Callable[[Any, Sequence[Call], Plan], Verdict],
    thing: Any,
    given: Sequence[Call],
    plan: Plan,
) -> Verdict:
    """Return the verdict on a subject with the real inputs among its calls."""
    try:
        given, plan, real = _with_inputs(thing, given, plan)
    except SpecError as error:
        reason = printable(str(error))
        return plan.verdict(Subject.of(thing).name, **{**facts_of(error), "reason": reason})
    return with_more(judged(thing, given, plan), notes=real.notes, cautions=real.cautions)


def _judged(thing: Any, given: Sequence[Call], plan: Plan, make: Make, **how: Any) -> Verdict:
    """Return the verdict on a subject, and before on how it follows a ``reference``, if given."""
    if plan.options.reference is None:
        return _checked(thing, given, plan, make, **how)
    first = _beside_reference(thing, given, plan)
    options = dataclasses.replace(plan.options, reference=None, steps=None)
    second = _checked(thing, given, dataclasses.replace(plan, options=options), make, **how)
    return in_two_steps(first, second, Subject.of(plan.options.reference).name)


# The settings that are about an artifact, not about what it is made of.
OF_AN_ARTIFACT = (
    *("isolate", "serve_on", "min_branch_coverage"),
    *(name for step in FLOW for name in step.settings),
)
# Verdicts on subjects beside their references, by key, for all targets of a test: the last so many.
FIRST_KEPT = 64
_first: dict[str, Verdict] = {}


def _beside_reference(thing: Any, given: Sequence[Call], plan: Plan) -> Verdict:
    """Return the verdict on a subject as the artifact of its reference, on the CPU.

    It is made once for all targets of a test, unless it reads what a digest does not show.
    """
    key = _key_of(thing, given, dataclasses.replace(plan, device="cpu", why_isolated=""))
    if key in _first:
        return _first[key]
    options, settings = plan.options, plan.settings
    asked = (name for name in options.checks or names.checks() if name != "round_trip")
    alone = dataclasses.replace(
        plan,
        target="export",  # any of torch's own: nothing is exported
        device="cpu",
        options=dataclasses.replace(
            options, reference=None, relations=None, checks=tuple(asked) or ("parity",)
        ),
        settings=dataclasses.replace(settings, **{n: vars(DEFAULTS)[n] for n in OF_AN_ARTIFACT}),
        why_isolated="",
        keep=None,
        expects=(),
    )
    make, called_as = partial(foreign.take_subject, thing=thing), Subject.of(thing)
    with noticed() as read:
        verdict = _checked(options.reference, given, alone, make, called_as=called_as)
    if key and not read:
        while len(_first) >= FIRST_KEPT:
            del _first[next(iter(_first))]
        _first[key] = dataclasses.replace(verdict, seconds={})
    return verdict


def _checked(
    thing: Any,
    given: Sequence[Call],
    plan: Plan,
    make: Make,
    *,
    foreign: bool = False,
    is_copy: bool = False,
    called_as: Subject | None = None,
) -> Verdict:
    inside, _ = unwrapped(thing)
    subject = dataclasses.replace(
        # Called and exported in the grad mode of the caller.
        Subject.of(thing, GradMode.current()),
        is_copy=is_copy,
        is_lent=not is_copy,
        called_as=called_as,
    )
    module = subject.module
    before = reach(inside)
    # A loop's calls are further ones, which no other check makes.
    learned = _learned(thing, given, plan) if plan.loop is None else Learned()
    starting = started(subject, plan, before, foreign=foreign, learned=learned)
    try:
        # In a function of its own, which leaves no copies in variables.
        with noticed() as read:
            verdict = verdict_of(starting, given, make)
        if read:
            learned.forget()  # a file, say, which the next item may find changed
    finally:
        if weight_of(module) > LARGE_MODULE:
            # Some 50 ms: the collector itself counts objects, not bytes.
            gc.collect()
            if module is not None and not is_copy:
                end_sharing(tensors_in(module))
        cuda.release()
    if cuda.lost():
        return verdict  # nothing that is there can be read
    after = fingerprint(inside)
    return _verified(verdict, changed(before.tokens, after))


# What the last item learned of eager: the next one is mostly the same test on another target.
_last: list[Learned] = [Learned()]


def _learned(thing: Any, given: Sequence[Call], plan: Plan) -> Learned:
    """Return the last item's facts if all that eager depends on is the same; else none yet."""
    key = _key_of(thing, given, plan)
    if not key or key != _last[0].key:
        _last[0] = Learned(key)
    return _last[0]


def _key_of(thing: Any, given: Sequence[Call], plan: Plan) -> str:
    try:
        return key_here(thing, given, plan)
    except NoKey:
        return ""


def _verified(verdict: Verdict, changes: Sequence[Change]) -> Verdict:
    """Return the verdict; with a warning if the check changed the user's own module.

    What forward itself changed elsewhere, and could not be put back, is a note.
    """
    shared = [change for change in changes if change.ref.kind in SHARED]
    if shared:
        note = f"forward changes {few(shared)}, and the check could not put that back"
        verdict = with_more(verdict, notes=[note])
    own = [change for change in changes if change.ref.kind not in SHARED]
    if not own:
        return verdict
    text = f"checking changed the module that the test has: {few(own)}; please report it"
    return with_more(verdict, **{"ineffective" if verdict.status == "passed" else "notes": [text]})
