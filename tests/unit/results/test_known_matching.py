"""results/known_matching.py: the same failure, another, worse, moved, fixed, or not valid here."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.diagnosis import Place as Introduced
from pytest_torchexport.results.known_failure import Severity, Stored
from pytest_torchexport.results.known_matching import Known, worse
from pytest_torchexport.results.known_place import entry_of
from pytest_torchexport.results.known_text import difference_lines, match_lines
from pytest_torchexport.results.size_pattern import SizePattern, Sizes
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference, ItemResult, Verdict

ITEM = "test_it.py::test_net[onnx-cpu]"
VERSIONS = {"torch": "2.13.0", "python": "3.11.7"}


def differs(*paths, error=1e-3):
    return tuple(
        Difference(
            kind="values", path=path, expected="1", actual="2", max_abs=error, own_error=1e-6
        )
        for path in paths
    )


def failed(failure="OutputsDiffer", **fields):
    fields = {"differences": differs("output"), **fields}
    return Verdict(
        subject="Net", target="onnx", device="cpu", status="failed", failure=failure, **fields
    )


def recipe_of(*kinds, edits=()):
    return {"leaves": [{"kind": kind, "edits": list(edits)} for kind in kinds]}


EXAMPLE = recipe_of("example")
PASSED = Verdict(subject="Net", target="onnx", device="cpu", status="passed")
SKIPPED = dataclasses.replace(PASSED, status="skipped")


def known(*entries):
    stored = [Stored(entry, "a.toml", number) for number, entry in enumerate(entries)]
    return Known(stored, VERSIONS, "2026-11-23")


def entry(verdict=None, nodeid=ITEM, **fields):
    return dataclasses.replace(entry_of(verdict or failed(), nodeid, reason="why"), **fields)


def compare(found, *verdicts, nodeid=ITEM, gone=(), whole=True):
    places = {each.entry.identity: each for each in found.stored}
    entries = [places[each.identity] for each in gone]
    return found.matches(nodeid, verdicts, gone=lambda: entries, whole=whole)


def statuses(found, *verdicts, **options):
    return [match.status for match in compare(found, *verdicts, **options)]


def in_operator(operator, **fields):
    place = Introduced(operator=operator) if operator else None
    return failed(diagnosis=Diagnosis(place=place, **fields))


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (failed(), failed("StateDiffers"), "OutputsDiffer is known, this is StateDiffers"),
        (
            failed(differences=differs("output[0]")),
            failed(differences=differs("output[1]")),
            "outputs: output[0] is known, now output[1]",
        ),
        (
            in_operator("aten.view"),
            in_operator("aten.mul"),
            "operator: aten.view is known, now aten.mul",
        ),
        (
            in_operator("", causes=(Cause(kind="frozen size", text="a"),)),
            in_operator("", causes=(Cause(kind="baked value", text="a"),)),
            "causes: frozen size is known, now baked value",
        ),
    ],
)
def test_another_failure_of_the_same_subject_is_not_known(before, after, change):
    (match,) = compare(known(entry(before)), after)
    assert match.status == "different"
    assert match.changes == (change,)
    assert statuses(known(entry(before)), before) == ["known"]
    assert statuses(known(entry(before), entry(after)), after) == ["known"]


def test_a_name_that_one_of_them_lacks_is_a_difference_unless_time_ran_out():
    found, nothing = in_operator("aten.view"), in_operator("")
    (match,) = compare(known(entry(found)), nothing)
    assert match.changes == ("operator: aten.view is known, now none",)
    assert statuses(known(entry(nothing)), found) == ["different"]
    late = in_operator("", not_examined=("causes: no time left",))
    assert statuses(known(entry(found)), late) == ["known"]
    assert entry(late).partial
    assert statuses(known(entry(late)), found) == ["known"]
    explained = in_operator("aten.view", causes=(Cause(kind="frozen size", text="a"),))
    assert statuses(known(entry(found)), explained) == ["known"]
    assert statuses(known(entry(explained)), found) == ["known"]


def test_an_entry_of_another_version_of_python_may_have_other_quotes_in_its_code():
    verdict = failed("ExportRefused", where=SourceLine("net.py", 3, "raise E(f'{x}')"))
    own = entry(verdict)
    for code, status in (('raise E(f"{x}")', "known"), ('raise E(f"{y}")', "different")):
        old = dataclasses.replace(own, place=dataclasses.replace(own.place, code=code))
        assert statuses(known(old), verdict) == [status]


def test_without_an_entry_a_failure_is_new_and_of_another_target_too():
    other = entry(dataclasses.replace(failed(), target="trace"), "test_it.py::test_net[trace-cpu]")
    assert statuses(known(other), failed()) == ["new"]


def test_a_known_failure_is_fixed_if_all_verdicts_on_its_subject_pass():
    assert statuses(known(entry()), PASSED) == ["fixed"]
    assert statuses(known(entry()), PASSED, failed()) == ["known"]
    assert statuses(known(entry()), PASSED, SKIPPED) == []
    assert statuses(known(entry()), SKIPPED) == []
    assert statuses(known(entry(), entry(failed("LoadFailed"))), failed("LoadFailed")) == ["known"]
    assert statuses(known(), PASSED) == []


def test_conditions_and_dates_end_it():
    (match,) = compare(known(entry(until="2026-11-22")), failed())
    assert (match.status, match.changes) == ("new", ("it was accepted until 2026-11-22",))
    assert statuses(known(entry(until="2026-11-23")), failed()) == ["known"]
    assert statuses(known(entry(until="2026-11-22")), PASSED) == ["fixed"]
    (match,) = compare(known(entry(when=("torch < 2.13",))), failed())
    assert (match.status, match.changes) == ("new", ("it is accepted only when torch < 2.13",))
    assert statuses(known(entry(when=("torch < 2.13",))), PASSED) == []
    assert statuses(known(entry(when=("torch >= 2.13",))), failed()) == ["known"]


FROM_5 = SizePattern(kind="from", numbers=(5,), fails=True)


def sized(*failing, pattern=None):
    return Sizes(dim="batch", example=2, ok=(2,), failing=failing, pattern=pattern)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (
            failed(diagnosis=Diagnosis(sizes=(sized(5, 6, pattern=FROM_5),))),
            failed(diagnosis=Diagnosis(sizes=(sized(3, 4, 5, 6),))),
            "batch fails at 3, 4 too; known: fails from 5",
        ),
        (
            failed(diagnosis=Diagnosis(owner="runtime's optimizer")),
            failed(diagnosis=Diagnosis(owner="translation")),
            "an earlier stage: translation; known: runtime's optimizer",
        ),
        (
            failed(recipe=EXAMPLE),
            failed(recipe=EXAMPLE, differences=differs("output", error=1e-2)),
            "an error of 1e+04 times eager's own; known: 1e+03",
        ),
        (
            failed(),
            failed(differences=differs("output", "output['b']")),
            "output['b'] differs too",
        ),
    ],
)
def test_what_is_worse_is_said_and_still_known(before, after, change):
    (match,) = compare(known(entry(before)), after)
    assert (match.status, match.changes) == ("worse", (change,))
    assert list(worse(entry(after), before)) == []
    assert list(worse(entry(after, severity=Severity()), before)) == []


@pytest.mark.parametrize(
    "recipe",
    [
        None,
        recipe_of("normal"),
        recipe_of("example", "normal"),
        recipe_of("example", edits=[[0, 1.0, "all"]]),
    ],
    ids=["none", "drawn", "partly drawn", "edited"],
)
def test_the_error_of_drawn_values_is_not_compared(recipe):
    before, after = failed(recipe=EXAMPLE), differs("output", error=1.0)
    larger = failed(recipe=recipe, differences=after)
    assert statuses(known(entry(before)), larger) == ["known"]
    assert entry(larger).severity.error is None
    assert statuses(known(entry(before)), failed(recipe=EXAMPLE, differences=after)) == ["worse"]
    ones = failed(recipe=recipe_of("ones", "example"), differences=after)
    assert statuses(known(entry(before)), ones) == ["worse"]


def test_an_error_without_bounds_is_not_worse_than_itself():
    same = failed(recipe=EXAMPLE, differences=differs("output", error=float("inf")))
    (match,) = compare(known(entry(same)), same)
    assert (match.status, match.changes) == ("known", ())


NEW = "new/test_it.py::test_net[onnx-cpu]"


def test_a_known_failure_follows_the_one_test_that_may_be_its_own():
    old = entry()
    (match,) = compare(known(old), failed(), nodeid=NEW, gone=[old])
    assert match.status == "moved"
    assert match.now == dataclasses.replace(old, test="new/test_it.py::test_net")
    assert statuses(known(old), failed(), nodeid=NEW) == ["new"]
    for other in (failed("StateDiffers"), failed(differences=differs("output[1]"))):
        assert statuses(known(old), other, nodeid=NEW, gone=[old]) == ["new"]
    other = dataclasses.replace(failed(), subject="Other")
    assert statuses(known(old), other, nodeid=NEW, gone=[old]) == ["new"]


def test_a_known_failure_that_moved_and_is_worse_says_both():
    old, more = entry(), failed(differences=differs("output", "output['b']"))
    (match,) = compare(known(old), more, nodeid=NEW, gone=[old])
    assert (match.status, match.changes) == ("moved", ("output['b'] differs too",))
    item = ItemResult(NEW, "xfailed", (more,), known=(match,))
    lines = list(match_lines([item], ("worse", "moved")))
    assert lines[0].startswith(f"worse: {NEW}: ")
    assert lines[0].endswith("output['b'] differs too")
    assert lines[1].startswith(f"moved: {NEW}: known of test_it.py::test_net")


def test_two_tests_that_are_gone_or_two_that_are_new_are_ambiguous():
    one, other = (entry(nodeid=f"old.py::test_{name}[onnx-cpu]") for name in "ab")
    (match,) = compare(known(one, other), failed(), nodeid=NEW, gone=[one, other])
    assert match.status == "ambiguous"
    assert match.changes == ("old.py::test_a (a.toml:0)", "old.py::test_b (a.toml:1)")
    head, _, _, step = difference_lines([match])
    assert "ambiguous: of tests that are gone" in head
    assert 'write test = "new/test_it.py::test_net" into the entry' in step
    found = known(one)
    assert statuses(found, failed(), nodeid=NEW, gone=[one]) == ["moved"]
    assert statuses(found, failed(), nodeid=NEW, gone=[one]) == ["moved"]
    assert statuses(found, failed(), nodeid=ITEM, gone=[one]) == ["ambiguous"]


@pytest.mark.parametrize(
    ("gone", "nodeid", "expected"),
    [
        (("old.py::test_a", "old.py::test_b"), "new.py::test_b[onnx-cpu]", "old.py::test_b"),
        (("x.py::test_a", "old.py::test_b"), "old.py::test_c[onnx-cpu]", "old.py::test_b"),
        (("x.py::t[1-a]", "x.py::t[2-a]"), "x.py::t[onnx-cpu-a-2]", "x.py::t[2-a]"),
        (("x.py::t[1]", "x.py::t[2]"), "x.py::u[onnx-cpu-2]", "x.py::t[2]"),
        (("x.py::A::t", "x.py::A::u"), "x.py::B::t[onnx-cpu]", "x.py::A::t"),
        (("x.py::t[5]", "x.py::t[8]"), "new/y.py::u[onnx-cpu-8]", "x.py::t[8]"),
        (("x.py::t[5-a]", "x.py::t[8-a]"), "new/y.py::u[onnx-cpu-a-8]", "x.py::t[8-a]"),
    ],
)
def test_names_tell_apart_what_may_have_moved(gone, nodeid, expected):
    entries = [entry(test=test) for test in gone]
    (match,) = compare(known(*entries), failed(), nodeid=nodeid, gone=entries)
    assert match.status == "moved"
    assert match.known.test == expected


def test_a_class_that_was_renamed_keeps_its_known_failure_if_all_subjects_are_there():
    old = entry()
    renamed = dataclasses.replace(failed(), subject="Network")
    (match,) = compare(known(old), renamed)
    assert (match.status, match.now.subject, match.now.test) == ("moved", "Network", old.test)
    assert statuses(known(old), renamed, whole=False) == ["new"]
    assert statuses(known(old), renamed, failed()) == ["new", "known"]
    assert statuses(known(old), renamed, PASSED) == ["new", "fixed"]
