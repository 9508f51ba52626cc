"""plugin/known.py: what is the same failure, when it is expected, and that no file ever loses an entry."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_torchexport.plugin import known
from pytest_torchexport.plugin.known import change, file_of, render
from pytest_torchexport.results.changes import entry_of, known_lines
from pytest_torchexport.results.diagnosis import Diagnosis, Place
from pytest_torchexport.results.reports import write
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import (
    Branch,
    Difference,
    ItemResult,
    KnownFailure,
    KnownMatch,
    Verdict,
)

ITEM = "test_it.py::test_net[onnx-cpu]"
FILE = "tests/test_net/TestNet.test_it.toml"

ENTRY = KnownFailure(
    test="tests/test_net.py::TestNet::test_it[1]",
    target="onnx",
    device="cpu",
    subject="Net",
    failure="OutputsDiffer",
    at="if x.sum() > 0:",
    reason='a "quoted" \\ reason\nin two lines \x7f ü',
    owner="@vision",
    since="2026-11-23",
    until="2027-06-30",
    when=("torch < 2.15", "onnxruntime >= 1.20, < 1.24"),
)


def other(number, **fields):
    return dataclasses.replace(ENTRY, subject=f"Net{number}", **fields)


ON = {"subject": "Net", "target": "onnx", "device": "cpu"}


def failed(failure="OutputsDiffer", *, at=None, operator="", path="output", line=None, **fields):
    """A failure that shows in an operator, at a line of it, or only in an output."""
    place = Place(operator=operator, where=line) if operator else None
    differs = Difference(kind="values", path=path, expected="1", actual="2")
    diagnosis = Diagnosis(place=place, **fields)
    return Verdict(
        **ON,
        status="failed",
        failure=failure,
        where=at,
        diagnosis=diagnosis,
        differences=(differs,),
    )


PASSED = Verdict(**ON, status="passed")
SKIPPED = dataclasses.replace(PASSED, status="skipped")
LINE, ELSEWHERE = SourceLine("net.py", 3, "x.view(2)"), SourceLine("net.py", 9, "x.view(3)")


def entry(verdict=None, **fields):
    return dataclasses.replace(entry_of(verdict or failed(), ITEM), **{"reason": "why"} | fields)


def compared(entries, *verdicts):
    files = dict.fromkeys(entries, "a.toml")
    return known.compared(files, "2026-11-23", ITEM, verdicts)


def statuses(entries, *verdicts):
    return [match.status for match in compared(entries, *verdicts)]


# -- the same failure ------------------------------------------------------------------------------

NAMES = {
    "a line": failed(at=LINE),
    "another line": failed(at=ELSEWHERE),
    "the line of an operator": failed(operator="aten.view", line=SourceLine("a.py", 1, "y + 1")),
    "an operator": failed(operator="aten.mul"),
    "an operator in a message": dataclasses.replace(failed(), reason="no onnx::Foo in 3.2"),
    "an output": failed(),
    "another output": failed(path="output[1]"),
    "a class": failed("StateDiffers"),
    "a message": dataclasses.replace(
        PASSED, status="failed", failure="OutputsDiffer", reason="3 of /a/b/c"
    ),
}


def test_a_failure_is_told_apart_by_the_best_name_of_its_place():
    for name, verdict in NAMES.items():
        for other_name, another in NAMES.items():
            expected = ["known" if name == other_name else "new"]
            assert statuses([entry(verdict)], another) == expected, (name, other_name)


def branches(*statements):
    """A verdict whose artifact takes the wrong side of these conditions, the first of which is reported."""
    frozen = tuple(
        Branch(
            where=SourceLine("net.py", number, ""),
            statement=text,
            text=text,
            module="",
            kind="if",
            counts={"True": 1},
            status={"True": "diverges"},
        )
        for number, text in enumerate(statements)
    )
    at = SourceLine("net.py", 0, statements[0])
    return dataclasses.replace(failed("BranchFrozen", at=at), branches=frozen)


def test_another_branch_that_freezes_beside_a_known_one_is_new():
    one, both = branches("if a:"), branches("if a:", "if b:")
    assert entry(both).at == "if a: || if b:"
    assert statuses([entry(one)], one) == ["known"]
    assert statuses([entry(one)], both) == ["new"]
    assert statuses([entry(both)], both) == ["known"]
    assert statuses([entry(both)], branches("if b:")) == ["known"]


def test_numbers_and_files_do_not_tell_failures_apart():
    moved = SourceLine("other.py", 30, "x.view(2)")
    assert statuses([entry(failed(at=LINE))], failed(at=moved)) == ["known"]
    message = dataclasses.replace(NAMES["a message"], reason="4 of /d/e/f\nmore")
    assert statuses([entry(NAMES["a message"])], message) == ["known"]


def test_a_place_that_a_diagnosis_had_no_time_to_find_may_be_any():
    late = failed(not_examined=("causes: no time left",))
    assert statuses([entry(NAMES["an operator"])], late) == ["known"]
    assert statuses([entry(late)], NAMES["an operator"]) == ["known"]
    assert statuses([entry(late)], failed("StateDiffers")) == ["new"]


def test_another_failure_of_the_subject_is_new_and_says_what_is_known():
    (match,) = compared([entry(failed(at=LINE))], failed("StateDiffers"))
    assert (match.status, match.file) == ("new", "a.toml")
    assert match.why == "another failure is known: OutputsDiffer of Net on onnx-cpu (x.view(2))"
    assert statuses([entry(failed(at=LINE)), entry()], failed()) == ["known"]


def test_of_another_target_device_subject_or_test_nothing_is_known():
    for field in ("test", "target", "device", "subject"):
        (match,) = compared([entry(**{field: "other"})], failed())
        assert (match.status, match.known) == ("new", None)


def test_a_known_failure_is_fixed_if_all_verdicts_on_its_subject_pass():
    assert statuses([entry()], PASSED) == ["fixed"]
    assert statuses([entry()], PASSED, failed()) == ["known"]
    assert statuses([entry()], PASSED, SKIPPED) == []
    assert statuses([entry()], SKIPPED) == []
    assert statuses([], PASSED) == []


@pytest.mark.parametrize(
    ("fields", "now", "passing"),
    [
        ({"until": "2026-11-22"}, "it was accepted until 2026-11-22", ["fixed"]),
        ({"until": "2026-11-23"}, "", ["fixed"]),
        ({"when": ("torch < 2",)}, "it is accepted only when torch < 2", []),
        ({"when": ("torch >= 2", "pytest")}, "", ["fixed"]),
        ({"when": ("no-such-package",)}, "it is accepted only when no-such-package", []),
    ],
)
def test_dates_and_versions_end_it(fields, now, passing):
    (match,) = compared([entry(**fields)], failed())
    assert match.status == ("known" if not now else "expired" if "until" in fields else "new")
    assert match.why.startswith(now)
    assert statuses([entry(**fields)], PASSED) == passing
    assert statuses([entry(**fields), entry(reason="valid")], failed()) == ["known"]


def test_the_summary_has_a_line_per_reason_and_is_short():
    def result(test, *matches):
        return ItemResult(test, "xfailed", (), known=matches)

    one = KnownMatch("known", now=ENTRY, known=dataclasses.replace(ENTRY, reason="{} upstream"))
    new = KnownMatch("new", now=ENTRY, known=ENTRY, why="another")
    lines = [*known_lines([result("a", one), result("b", one), result("c", new)])]
    assert lines == [
        "xfail: a (and 1 more): {} upstream, @vision, since 2026-11-23",
        "new: c: OutputsDiffer of Net on onnx-cpu (if x.sum() > 0:): another",
    ]
    many = [KnownMatch("fixed", now=other(n), known=other(n)) for n in range(50)]
    assert [*known_lines([result("a", *many)])][-1] == "known: + 40 more lines"


# -- the files -------------------------------------------------------------------------------------


def entries(directory):
    return list(known.read(directory))


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "known"


def test_what_is_written_is_read_again_and_written_the_same(directory):
    bare = entry(NAMES["a class"], since="2026-01-31")
    change(directory, added=[ENTRY, bare, other(2)])
    assert sorted(entries(directory), key=str) == sorted([ENTRY, bare, other(2)], key=str)
    text = (directory / FILE).read_text(encoding="utf-8")
    assert text == render([other(2), ENTRY])
    assert "until = 2027-06-30" in text.splitlines()
    assert file_of("../up/test_a.py::test_b[3]") == "up/test_a/test_b.toml"


def test_what_does_not_show_is_written_as_its_number(directory):
    made = dataclasses.replace(entry_of(failed(), "a.py::test[\udcff \u202e]"), reason="why")
    change(directory, added=[made])
    assert entries(directory) == [made]
    assert made.test == "a.py::test[<U+DCFF> <U+202E>]"


def test_only_files_whose_entries_change_are_written_wherever_a_merge_has_put_an_entry(directory):
    change(directory, added=[ENTRY, other(2, test="a.py::test")])
    by_hand = "# mine\n" + (directory / "a/test.toml").read_text(encoding="utf-8")
    (directory / "a/test.toml").write_text(by_hand, encoding="utf-8")
    (directory / FILE).rename(directory / "elsewhere.toml")
    assert change(directory) == []
    again = dataclasses.replace(ENTRY, reason="again", until="")
    assert len(change(directory, added=[again])) == 2
    assert len(change(directory, removed=[ENTRY])) == 1
    assert (directory / "a/test.toml").read_text(encoding="utf-8") == by_hand
    assert [*directory.rglob("*.toml")] == [directory / "a/test.toml"]


TEXT = """\
version = 1
[[failure]]
test = "a.py::test"
target = "onnx"
device = "cpu"
subject = "Net"
failure = "OutputsDiffer"
reason = "why"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", "its version is 2, this pytest-torchexport reads 1"),
        ("version = 1", "version = 1\nextra = 3", "it is to have a version and tables"),
        ('"onnx"', '"onnx', "(at line 4, column 15); mend it, or restore it with git"),
        ('reason = "why"\n', "", "entry 1: reason: it is missing; mend it"),
        ('"why"', "3", "entry 1: reason: 3 is not a text"),
        ("reason =", "raeson =", "entry 1: 'raeson' is not a key; legal: "),
        ('"OutputsDiffer"', '"Outputs"', "entry 1: 'Outputs' is not a failure class"),
        ('"OutputsDiffer"', '"Failure"', "entry 1: 'Failure' is not a failure class"),
        ('"why"', '"why"\nuntil = "soon"', "entry 1: 'until' is no date; write it like"),
        ('"why"', '" "', "entry 1: reason: it is empty"),
        ('"why"', '"why"\nwhen = ["soon!"]', "entry 1: when: 'soon!' is no requirement"),
        ('"why"', '"\udcff"', "can't decode byte"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_stays(directory, old, new, message):
    path = directory / "a/test.toml"
    write(path, TEXT)
    assert len(entries(directory)) == 1
    wrong = TEXT.replace(old, new).encode("utf-8", "surrogateescape")
    path.write_bytes(wrong)
    for act in (lambda: known.read(directory), lambda: change(directory, added=[ENTRY])):
        with pytest.raises(pytest.UsageError) as found:
            act()
        assert "a/test.toml: " in str(found.value)
        assert message in str(found.value)
    assert path.read_bytes() == wrong
    assert [*directory.rglob("*.toml")] == [path]
