"""One verdict of two steps: reference to subject, and subject to artifact."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from pytest_torchexport.results.failures import NotRepeatable, SpecError, TrainingMode
from pytest_torchexport.results.text import as_said_of
from pytest_torchexport.results.verdict import Verdict, with_more

# Of these failures the reference itself is the reason, or what was declared.
_OF_THE_REFERENCE = tuple(cls.__name__ for cls in (NotRepeatable, SpecError, TrainingMode))
_TEXTS = ("details", "notes", "cautions", "ineffective")


def in_two_steps(first: Verdict, second: Verdict, reference: str) -> Verdict:
    """Return the verdict on a subject that is to follow a reference.

    ``first`` is on the reference, of which the subject is the artifact; ``second`` on the subject.
    If both fail, the first is what its user meets.
    """
    subject, target = second.subject, second.target
    said = partial(as_said_of, reference=reference, subject=subject)
    steps = f"{reference} -> {subject}", f"{subject} -> {target}"
    if first.status == "failed":
        faithful = f"{subject} does not follow {reference}, and {_result(second)}"
        reason = said(first.reason)
        if first.failure not in _OF_THE_REFERENCE:
            reason = f"{faithful}: {reason}" if reason else faithful
        texts: dict[str, Any] = {name: (*map(said, getattr(first, name)),) for name in _TEXTS}
        return dataclasses.replace(
            first,
            subject=subject,
            target=target,
            device=second.device,
            reason=reason,
            sides=(reference, subject),
            **texts,
        )
    calls = sum(first.calls.values()) - first.calls.get("rejected", 0)
    result = f"agrees on {calls} calls" if first.status == "passed" else "was not judged"
    seconds = {**second.seconds, "reference": sum(first.seconds.values())}
    both = dataclasses.replace(second, seconds=seconds)
    if second.status == "failed":
        return dataclasses.replace(
            both,
            details=(f"{steps[0]}: {result}; {steps[1]}: fails", *second.details),
            sides=second.sides or (subject, target),
        )
    doubts = filter(None, [first.reason, *first.cautions, *first.ineffective])
    cautions = (f"{steps[0]}: {said(text)}" for text in doubts)
    return with_more(both, notes=[f"{steps[0]}: {result}"], cautions=cautions)


def _result(verdict: Verdict) -> str:
    subject, target = verdict.subject, verdict.target
    if verdict.status == "skipped":
        return f"{target} was not judged ({verdict.reason})"
    if verdict.status == "failed":
        return f"{target} fails as well ({verdict.failure})"
    return f"{target} agrees with {subject}"
