"""Give what eager did in one item of a test to the next, whose body has made the same module.

Nothing is kept between runs: see ``unchanged``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from pytest_torchexport.cache.digest import Digest, NoDigest
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.remembered import MOST_BYTES, Remembered
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.outcomes.torch_state import settings_now
from pytest_torchexport.results.entries import without_variant
from pytest_torchexport.results.verdict import Verdict
from pytest_torchexport.torch_private import global_hooks

# The subjects of the last tests, the latest last.
_kept: dict[str, Remembered] = {}
MOST_SUBJECTS = 16


def with_earlier_runs(check: Callable[[Plan], Verdict], thing: Any, plan: Plan) -> Verdict:
    """Return the verdict of ``check``, whose plan has what eager did in the test's other items.

    What an item that does not pass has seen of eager is not kept.
    """
    key = _key_of(thing, plan)
    if key is None:
        return check(plan)
    runs = Remembered(_digest, _kept.get(key))
    verdict = check(dataclasses.replace(plan, earlier=runs))
    if verdict.status == "passed" and not runs.is_forgotten:
        _kept.pop(key, None)
        _kept[key] = runs
        while len(_kept) > MOST_SUBJECTS or sum(each.bytes for each in _kept.values()) > MOST_BYTES:
            del _kept[next(iter(_kept))]
    return verdict


def _key_of(thing: Any, plan: Plan) -> str | None:
    """Return the digest of all that eager's outcomes depend on, besides the call.

    None without a test: what else changes between two checks is not known.
    """
    if not plan.nodeid:
        return None
    test = without_variant(plan.nodeid, f"{plan.target}-{plan.device}")
    mode = plan.options.mode or plan.settings.mode
    grad_mode = str(GradMode.current())
    return _digest(
        (*unwrapped(thing), *global_hooks(), test, mode, grad_mode, *settings_now(plan.device))
    )


def _digest(value: Any) -> str | None:
    """Return the digest of a value; None if it has none."""
    found = Digest()
    try:
        found.add((value.args, dict(value.kwargs)) if isinstance(value, Call) else value)
    except NoDigest:
        return None
    return found.hexdigest()
