"""Diagnose an exporter's refusal: the owner, the cause in a sentence, the user's line, the remedy.

First what is known of the exporter's words, then what on the user's line asks for a value or a
size. Where neither says anything, experiments: a question that eager answers otherwise in the
export, and an export without gradients.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.undecided import frozen_at, undecided
from pytest_torchexport.eager.queries import Query, answering, queries, survives
from pytest_torchexport.judge.case import Prepared, made_or_refused
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.diagnosis import NOTHING, Cause, Diagnosis
from pytest_torchexport.results.failures import ends_the_test
from pytest_torchexport.results.source_line import SourceLine, has_owner, source_line
from pytest_torchexport.targets.upstream.rows import Evidence, first

WITH_GRADIENTS = Cause(
    kind="mode-dependent operator",
    text="the test calls the module with gradients; under torch.no_grad() the exporter takes it",
    remedy="make the test's call and your export under torch.no_grad()",
)
# TorchScript underlines the expression that it refuses, and leaves out its last bracket.
_UNDERLINED = re.compile(r"\n(?P<code>[^\n]*)\n(?P<blanks> *)(?P<line>~+) <--- HERE")
BRACKETS = (("[", "]"), ("(", ")"))

T = TypeVar("T")


def diagnose(prepared: Prepared, error: BaseException) -> Diagnosis:
    """Return what can be found out about the exception of an exporter."""
    found = explained(error, prepared.plan.target, prepared.reference.pristine.function)
    experiment = _Experiment(prepared, error)
    for examine in (experiment.with_other_answers, experiment.without_gradients):
        if not found.causes:
            found = experiment.within_the_time(examine) or found
    return found


def explained(
    error: BaseException, target: str, called: Callable[..., Any] | None = None
) -> Diagnosis:
    """Return what an exception says by itself; the line alone if nothing is known of its words.

    ``called`` is the module or function that was to be exported, if it is known.
    """
    texts = [(type(cause).__name__, _whole_text(cause)) for cause in chain(error)]
    where = frozen_at(error) or condense(error)[1]
    evidence = Evidence(
        target=target,
        said=texts,
        line=where.text if where is not None else "",
        frames="\n".join(_frames(error)),
        names={"here": _underlined([text for _, text in texts], where)},
    )
    known = first("refusals", evidence)
    if known is None:
        cause = undecided(error)
        return Diagnosis(owner="model", causes=(cause,)) if cause is not None else NOTHING
    row, names = known
    cause = Cause(
        kind=row.kind,
        text=row.cause.format_map(names),
        remedy=row.remedy.format_map(names),
        where=_only_return(called) if row.returned else where,
    )
    return Diagnosis(owner=row.owner, causes=(cause,))


def _whole_text(error: BaseException) -> str:
    """Return the text of an exception with the notes that a target added."""
    return "\n".join((text_of(error), *getattr(error, "__notes__", ())))


def _frames(error: BaseException) -> Iterator[str]:
    for cause in chain(error):
        for frame in traceback.extract_tb(cause.__traceback__):
            yield f"{frame.filename}:{frame.name}"


def _underlined(texts: list[str], where: SourceLine | None) -> str:
    """Return the expression that TorchScript underlines, else the user's line."""
    line = where.text if where is not None else ""
    match = next(filter(None, map(_UNDERLINED.search, texts)), None)
    if match is None:
        return line
    start = len(match["blanks"])
    marked = match["code"][start : start + len(match["line"])]
    marked += "".join(end for begin, end in BRACKETS if marked.count(begin) > marked.count(end))
    return marked if marked in line else line


def _only_return(called: Any) -> SourceLine | None:
    """Return the line of the only return statement of what was called; None if there are more."""
    function = getattr(called, "forward", called)
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        lines, start = inspect.getsourcelines(function)
        (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or a lambda's
        return None
    found = list(_returns(definition))
    if path is None or len(found) != 1 or not has_owner(path):
        return None
    return source_line(path, start + found[0].lineno - 1)


def _returns(definition: ast.AST) -> Iterator[ast.Return]:
    """Yield the return statements of a function, without those of functions inside it."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for node in ast.iter_child_nodes(definition):
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, inner):
            yield from _returns(node)


@dataclass(frozen=True)
class _Experiment:
    """Ways to run or export the subject otherwise, which may show why it is refused."""

    prepared: Prepared
    error: BaseException

    def with_other_answers(self) -> Diagnosis | None:
        """Return the question that makes eager raise the same with the answer of the export."""
        plan, subject = self.prepared.plan, self.prepared.reference.pristine
        answers = targets.get(plan.target).traits.answers
        call = self.prepared.call_to_export().to("cpu")
        said = {text_of(each) for each in chain(self.error)}
        for query in queries(subject, call, plan.seed, answers):
            if not survives(subject, call, plan.seed, answers, [query]):
                continue
            function = answering(subject.copy().function, answers, [query])
            raised = observe(function, call, seed=plan.seed, grad_mode=subject.grad_mode)
            if isinstance(raised, Raised) and raised.message and raised.message in said:
                return Diagnosis(owner="model", causes=(_of_the_export(query, answers, raised),))
        return None

    def without_gradients(self) -> Diagnosis | None:
        """Return the grad mode of the test's call, if the exporter takes the module without."""
        if self.prepared.reference.pristine.grad_mode is not GradMode.GRAD:
            return None
        # Again with gradients too: a refusal may be one of the first export alone.
        if self._takes(GradMode.NO_GRAD) and not self._takes(GradMode.GRAD):
            return Diagnosis(owner="capture", causes=(WITH_GRADIENTS,))
        return None

    def _takes(self, mode: GradMode) -> bool:
        call = self.prepared.call_to_export()
        made = made_or_refused(lambda: self.prepared.exported(call, grad_mode=mode))
        return not isinstance(made, str)

    def within_the_time(self, examine: Callable[[], T | None]) -> T | None:
        """Return what an examination finds within the time for a diagnosis; None if it ends.

        In a fork if possible: torch may swallow the interrupt that ends it in this process.
        """
        plan, log = self.prepared.plan, self.prepared.log
        seconds = log.diagnosis_seconds(wanted=plan.diagnoses)
        if not seconds:
            return None
        plan.progress("diagnosis: why it is refused")
        with log.timed("diagnosis"), self.prepared.deadline.paused():
            try:
                if can_fork():
                    found = in_fork(examine, seconds)
                    return None if isinstance(found, Death) else found
                with interrupted_after(seconds):
                    return examine()
            except Exception as error:
                if ends_the_test(error):
                    raise
                return None


def _of_the_export(query: Query, answers: Mapping[str, Any], raised: Raised) -> Cause:
    return Cause(
        kind="export-only branch",
        text=f"{query.name}() is {answers[query.name]} in the export: with this answer eager "
        "raises the same",
        remedy="write on both sides what eager runs there, or give forward what it does not make "
        "while it is exported",
        details=(query.asked_at, *([f"raised at {raised.where}"] if raised.where else [])),
        where=query.where,
    )
