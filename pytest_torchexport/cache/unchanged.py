"""Return the verdict of an earlier pass if nothing that it depends on has changed since.

The key is a digest of the subject (its classes, functions, weights, attributes and the globals that
it names), the calls, the options and settings, the user's files that lead there, and the versions
and settings of the process. What has no digest has no key, and is checked each time.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis

from pytest_torchexport.cache.digest import Digest, NoDigest
from pytest_torchexport.cache.reads import noticed
from pytest_torchexport.cache.sources import closure
from pytest_torchexport.cache.store import Store
from pytest_torchexport.cache.surroundings import surroundings
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import OF_A_RUN, TABLE
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.results.verdict import Verdict
from pytest_torchexport.torch_private.modules import global_hooks

FOREIGN = "what check_artifact is given is checked each time"
MADE_ANEW = "with {option}, artifacts are made each time"
# The modules that Python itself imports.
_RUN_AT_START = ("sitecustomize", "usercustomize")
# An artifact that ships has to be made, and a time is that of the machine as it is now.
_MADE_ANEW = ("ship", "latency", "max_slowdown", "max_growth")
# Settings that change no verdict of a pass.
_WITHOUT_EFFECT = frozenset(
    {*OF_A_RUN, "cache", "cache_limit", "diagnosis_limit", "reproducer_limit"}
)


def unless_unchanged(
    check: Callable[[], Verdict], thing: Any, given: Sequence[Call], plan: Plan
) -> Verdict:
    """Return the kept verdict on a subject and calls; else that of ``check``, kept if it passed."""
    start = time.perf_counter()
    anew = [name for name in _MADE_ANEW if getattr(plan.settings, name)]
    if anew:
        return not_kept(check(), MADE_ANEW.format(option=f"torchexport_{anew[0]}"))
    try:
        key = key_of(thing, given, plan)
    except NoDigest as reason:
        return not_kept(check(), f"of {reason}, no other process can tell if it is the same")
    store = Store((plan.root or Path()) / plan.settings.cache, plan.settings.cache_limit)
    kept = store.get(key)
    if kept is not None:
        return dataclasses.replace(kept, seconds={"cache": time.perf_counter() - start})
    with noticed() as read:
        verdict = check()
    if verdict.status != "passed":
        return verdict
    if read:
        return not_kept(verdict, f"the model's code reads {', '.join(sorted(set(read))[:3])}")
    try:
        store.put(key, verdict)
    except OSError as error:
        return not_kept(verdict, f"{plan.settings.cache}: {error.strerror or error}")
    return verdict


def not_kept(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict with the reason why no later run takes it."""
    return dataclasses.replace(verdict, not_kept=reason)


def key_of(thing: Any, given: Sequence[Call], plan: Plan) -> str:
    """Return the digest of all that a verdict depends on. Raises NoDigest.

    The seed is no part of it: a verdict is one of the draws of its seed, and stays so.
    """
    found = Digest()
    for value in _parts(thing, given, plan):
        found.add(value)
    modules = [*found.modules, *plan.settings.runtime_imports, *plan.plugins, *_RUN_AT_START]
    files = closure(modules, _files_of_test(plan))
    found.add((files.files, files.variables, surroundings(plan.device)))
    for name in files.registering:
        found.add_functions_of(sys.modules.get(name))
    return found.hexdigest()


def _parts(thing: Any, given: Sequence[Call], plan: Plan) -> Iterator[Any]:
    yield from unwrapped(thing)
    yield from global_hooks()
    for call in given:
        yield call.args
        yield dict(call.kwargs)
    # A test's body may change torch as its parameters say: each item has a verdict of its own.
    yield (
        plan.nodeid,
        plan.target,
        plan.device,
        plan.max_examples,
        hypothesis.settings().max_examples,
    )
    yield (bool(plan.why_isolated), plan.named)
    for field in dataclasses.fields(plan.options):
        yield field.name
        yield getattr(plan.options, field.name)
    names = (row.name for row in TABLE if row.name not in _WITHOUT_EFFECT)
    yield from ((name, getattr(plan.settings, name)) for name in names)


def _files_of_test(plan: Plan) -> list[Path]:
    """Return the test's file and the conftests above it: they may change what they import."""
    if plan.root is None or not plan.nodeid:
        return []
    test = plan.root / plan.nodeid.partition("::")[0]
    folders = [folder for folder in test.parents if folder.is_relative_to(plan.root)]
    conftests = (folder / "conftest.py" for folder in folders)
    return [path for path in (test, *conftests) if path.is_file()]
