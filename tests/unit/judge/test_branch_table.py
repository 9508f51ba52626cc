"""judge/branch_table.py: from calls and their paths to the branch to blame, and to the table of conditions."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from pytest_torchexport.explore.conditions import MORE, NONE, Condition
from pytest_torchexport.explore.search import Explored, Found, Seen
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.judge.branch_table import (
    DIVERGES,
    EQUAL,
    RAISES,
    UNDECIDED,
    UNREACHED,
    VERIFIED,
    BranchResults,
    Tried,
    enough,
    frozen,
    has_branch,
    may_be_frozen,
    unreached,
)
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    Ineffective,
    NotRepeatable,
    OutputsDiffer,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Branch, Difference, coverage_of
from pytest_torchexport.targets.formats.facts import Branches

A, B, LOOP = (1, ""), (2, ""), (4, "")
FILE = "/somewhere/net.py"


def condition(line=10, kind="if", text="x > 0", **more):
    statement = f"{kind} {text}:"
    return Condition(
        file=FILE,
        first_line=line,
        line=line,
        end_line=line,
        kind=kind,
        text=text,
        statement=statement,
        function="Net.forward",
        **more,
    )


def found(*decisions, loops=()):
    """A call with these outcomes in order, and loops that ran so often."""
    looped = {key for key, _ in loops}
    taken = {goal for goal in decisions if goal[0] not in looped} | set(loops)
    return Found(Recipe(sizes={}, leaves=()), tuple(decisions), frozenset(taken))


EXAMPLE = found((A, True), (B, True))


def passed(*decisions):
    return Tried(found(*decisions), failed=False)


def failed(*decisions):
    return Tried(found(*decisions), failed=True)


def results(known, tried=(), artifact=Branches(), *, where=None, example=EXAMPLE):  # noqa: B008
    """Results of a search for the conditions of these keys, which are all the same one."""
    explored = Explored(
        conditions={key[0]: where or condition() for key in known},
        seen=known,
        corpus=(example,),
        calls=9,
    )
    return BranchResults(
        spec=SimpleNamespace(dims={}),
        observed=None,
        explored=explored,
        artifact=artifact,
        tried=list(tried),
    )


# -- guilty ----------------------------------------------------------------------------------------


def test_of_two_turns_the_one_that_passing_calls_never_took_is_guilty():
    failing = found((A, False), (B, False))
    others = passed((A, False), (B, True)), failed((A, True), (B, False))
    tried = [Tried(failing, failed=True), *others]
    assert results({}, tried).guilty(failing) == (B, False)


@pytest.mark.parametrize(("rounds", "more"), [(3, True), (1, False)])
def test_a_loop_that_goes_round_another_number_of_times_is_guilty(rounds, more):
    def looped(times):
        return found(*[(LOOP, True)] * times, (LOOP, False), (A, True), loops=[(LOOP, MORE)])

    assert results({}, example=looped(2)).guilty(looped(rounds)) == (LOOP, more)


def test_of_a_loop_and_a_turn_inside_it_the_one_that_tells_better_is_guilty():
    """The loop cuts a sequence into chunks, and min() of the last one may be cut short."""

    def chunks(*whole):
        rounds = [step for one in whole for step in ((LOOP, True), (A, one))]
        return found(*rounds, (LOOP, False), loops=[(LOOP, MORE)])

    example, longer = chunks(False, False), chunks(False, False, True)

    def guilty(*tried):
        known = results({LOOP: None}, tried, where=condition(kind="for"), example=example)
        return known.guilty(longer)

    fails = Tried(longer, failed=True)
    shorter = Tried(chunks(False, True), failed=False)
    others = Tried(chunks(False, False, False), failed=False)
    assert guilty(fails, shorter) == (LOOP, True)
    assert guilty(fails) == (LOOP, True)
    assert guilty(fails, others) == (A, True)


# -- has_branch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("artifact", "inside"),
    [
        (None, None),
        (Branches(), False),
        (Branches(lines=frozenset({(FILE, 12)})), True),
        (Branches(lines=frozenset({(FILE, 13)})), False),
        (Branches(lines=frozenset({("/other/net.py", 10)})), False),
        (Branches(unplaced=1), None),
        (Branches(lines=frozenset({(FILE, 10)}), unplaced=1), True),
    ],
)
def test_whether_the_artifact_has_a_branch_on_the_lines_of_the_statement(artifact, inside):
    spread = dataclasses.replace(condition(), end_line=12)
    assert has_branch(artifact, spread) is inside


# -- the failure -------------------------------------------------------------------------------------------------


def test_only_what_an_artifact_does_that_runs_on_may_be_a_frozen_branch():
    assert may_be_frozen(OutputsDiffer("differ"))
    assert may_be_frozen(ArtifactRaised("IndexError: index 3 is out of bounds"))
    assert not may_be_frozen(NotRepeatable("drift"))
    assert not may_be_frozen(ArtifactRaised("AssertionError: Guard failed: x.size()[0] == 3"))


def test_a_frozen_branch_is_named_with_its_symptom():
    difference = Difference(kind="values", path="output", expected="1", actual="2")
    symptom = OutputsDiffer("output\n differs", details=("more",), differences=(difference,))
    ways = (EXAMPLE, found((A, False)))
    failure = frozen(symptom, condition(), (A, False), ways)
    assert isinstance(failure, BranchFrozen)
    assert "the artifact has no branch for x > 0, and" in str(failure)
    assert "eager takes False" in str(failure)
    assert failure.details == ("so output differs", "more")
    assert str(failure.where).endswith("net.py:10  if x > 0:")
    assert failure.differences == (difference,)
    ways = (found((LOOP, True), (LOOP, False)), found(*[(LOOP, True)] * 3, (LOOP, False)))
    looped = frozen(symptom, condition(kind="for", text="i in x"), (LOOP, True), ways)
    assert "always goes round once, as on the example; eager 3 times" in str(looped)


# -- the table ---------------------------------------------------------------------------------------------------


def seen(counts, *, varies=True, on_values=True):
    made = Seen(counts=dict(counts))
    marks = [1, 2] if varies else [1, 1]
    for mark, size in zip(marks, [3, 3] if on_values else [3, 4], strict=True):
        made.compare((mark,), {"batch": size})
    return made


def statuses(known, tried, artifact=Branches(), *, culprit=None, **more):  # noqa: B008
    (row,) = results({A: known}, tried, artifact, **more).table(culprit)
    return row


INSIDE = Branches(lines=frozenset({(FILE, 10)}))
PASSED = [passed((A, True)), passed((A, False))]
PARTLY = [failed((A, False), (B, False)), passed((A, False), (B, True)), passed((A, True))]


@pytest.mark.parametrize(
    ("tried", "artifact", "culprit", "status"),
    [
        (PASSED, INSIDE, None, VERIFIED),
        (PASSED, Branches(), None, EQUAL),
        (PASSED, None, None, VERIFIED),
        # A call passed with it.
        (PARTLY, Branches(), None, EQUAL),
        (PARTLY, Branches(), (A, False), DIVERGES),
    ],
)
def test_what_became_of_an_outcome_that_the_example_does_not_take(tried, artifact, culprit, status):
    row = statuses(seen({True: 3, False: 2}), tried, artifact, culprit=culprit)
    assert row.status == {"True": VERIFIED, "False": status}
    assert row.counts == {"True": 3, "False": 2}
    assert row.in_artifact is (artifact is INSIDE if artifact is not None else None)
    assert row.on_values
    assert str(row.where).endswith("/net.py:10")


def test_calls_that_eagers_own_error_decides_do_not_verify_an_outcome():
    unsure = dataclasses.replace(passed((A, False)), unsure=True)
    row = statuses(seen({True: 3, False: 2}), [PASSED[0], unsure])
    assert row.status == {"True": VERIFIED, "False": UNDECIDED}
    (told,) = unreached([row])
    assert "calls that eager's own error decides made it False" in told


def test_an_outcome_that_only_raises_is_no_aim():
    row = statuses(
        seen({False: 3}),
        [passed((A, False))],
        where=condition(raises=frozenset({True})),
        example=found((A, False)),
    )
    assert row.status == {"False": VERIFIED, "True": RAISES}
    assert coverage_of([row]) == 100.0


# -- what a pass does not rest on --------------------------------------------------------------------------------


def branch(status, *, inside=False, kind="if", module="blocks.1"):
    return Branch(
        where=SourceLine("net.py", 10),
        statement="if x > 0:",
        text="x > 0",
        module=module,
        kind=kind,
        counts={},
        status=status,
        in_artifact=inside,
    )


@pytest.mark.parametrize(
    "row",
    [
        branch({"True": VERIFIED, "False": EQUAL}),
        branch({"True": VERIFIED, "False": UNREACHED}, inside=True),
        branch({"True": VERIFIED, "False": UNREACHED}, inside=None),
        branch({NONE: UNREACHED, MORE: VERIFIED}, kind="for"),
    ],
)
def test_unreached_outcomes_of_frozen_branches_are_told_and_no_others(row):
    assert list(unreached([row])) == []
    (sentence,) = unreached([row, branch({"True": VERIFIED, "False": UNREACHED})])
    assert sentence.startswith("net.py:10  if x > 0 in blocks.1: no call made it False")
    assert "not verified" in sentence


def test_too_little_coverage_is_ineffective_with_the_list():
    rows = [
        branch({"True": VERIFIED, "False": UNREACHED}),
        branch({"True": UNREACHED, "False": VERIFIED}, module="", inside=True),
        branch({NONE: UNREACHED}, kind="for"),
    ]
    with pytest.raises(Ineffective, match=r"branch coverage is 50\.0 %") as caught:
        enough(coverage_of(rows), 90.0, rows)
    assert caught.value.details == (
        "net.py:10  if x > 0 in blocks.1: False unreached",
        "net.py:10  if x > 0: True unreached",
    )
