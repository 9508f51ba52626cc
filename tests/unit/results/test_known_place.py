"""results/known_place.py: a failure is named by what edits elsewhere do not change."""

from __future__ import annotations

import pytest

from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.diagnosis import Place as Introduced
from pytest_torchexport.results.known_failure import FailurePlace
from pytest_torchexport.results.known_place import (
    entry_of,
    place_of,
    severity_of,
    unformatted,
)
from pytest_torchexport.results.size_pattern import SizePattern, Sizes
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Branch, Difference, Verdict


def failed(failure, **fields):
    return Verdict(
        subject="Net", target="onnx", device="cpu", status="failed", failure=failure, **fields
    )


def differs(path, **fields):
    return Difference(kind="values", path=path, expected="1.0", actual="2.0", **fields)


def test_outputs_operator_module_and_causes_are_names():
    verdict = failed(
        "OutputsDiffer",
        differences=(differs("output[1]"), differs("output[0]"), differs("output[1]")),
        diagnosis=Diagnosis(
            place=Introduced(operator="aten.view", module="head.pool (AdaptiveAvgPool2d)"),
            causes=(Cause(kind="frozen size", text="x.shape[0] is 2"),),
        ),
    )
    assert place_of(verdict) == FailurePlace(
        outputs=("output[0]", "output[1]"),
        kinds=("values",),
        operator="aten.view",
        module="head.pool",
        causes=("frozen size",),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("if x.sum()>0:", "if (x.sum() > 0):"),
        ("elif x['a'] > 0:", 'elif x["a"]>0:'),
        ("kept = [one for one in x if one.sum() > 0]", "kept=[one for one in x if one.sum()>0]"),
        ("return x.view( 2, -1 )", "return x.view(2, -1)"),
        ("case (_,  1):", "case (_, 1):"),
    ],
)
def test_a_formatter_does_not_change_the_line_to_blame(before, after):
    one, other = (
        place_of(failed("ExportRefused", where=SourceLine("net.py", number, text)))
        for number, text in enumerate((before, after), 1)
    )
    assert one == other != FailurePlace()


F_STRINGS = [
    ("raise E(f'{x!r}')", "raise E(f'{x!r}')"),
    ("""key = f"{d['a']}:{y:>{w}}\"""", """key = f"{d['a']}:{y:>{w}}\""""),
    ("if f'{x=}' == n :", "if f'x={x!r}' == n:"),
    ("f'{ {1: 2}[1]} {{}}'", "f'{ {1: 2}[1]} {{}}'"),
    ("""a = f"{f'{b}'}{b:{f'{w}'}}\"""", """a = f"{f'{b}'}{b:{f'{w}'}}\""""),
]


@pytest.mark.parametrize(("text", "written"), F_STRINGS)
def test_f_strings_are_written_alike_in_all_versions_of_python(text, written):
    assert unformatted(text) == written
    assert unformatted(written) == written


def test_of_a_frozen_branch_it_is_the_branch_that_diverges():
    branches = [
        Branch(
            where=SourceLine("net.py", 3),
            statement=f"if x.sum() > {limit}:",
            text=f"x.sum() > {limit}",
            module="",
            kind="if",
            counts={"True": 1},
            status={"True": status},
        )
        for limit, status in ((1, "verified"), (2, "diverges"))
    ]
    verdict = failed("BranchFrozen", branches=tuple(branches))
    assert place_of(verdict).code == "if x.sum() > 2:"


def test_what_was_raised_and_the_operator_that_a_refusal_names_are_names():
    raised = Difference(kind="raised", path="", expected="returns", actual="RuntimeError: 3 rows")
    verdict = failed("ArtifactRaised", differences=(raised,), reason="RuntimeError: 3 rows")
    assert place_of(verdict) == FailurePlace(
        exception="RuntimeError", message="RuntimeError: # rows"
    )
    verdict = failed("ExportRefused", reason="torch.Unsupported: aten::from_file: no kernel")
    assert place_of(verdict) == FailurePlace(
        exception="torch.Unsupported", operator="aten.from_file"
    )


def test_of_a_narrowed_dim_it_is_the_dim():
    verdict = failed("DimsNarrowed", reason="batch (axis 0 of x): any size, the program says 2..9")
    assert place_of(verdict).dims == ("batch",)


def test_a_message_is_taken_without_numbers_and_paths_and_only_if_there_is_nothing_else():
    one, other = (
        place_of(failed("LoadFailed", reason=f"no {path} of size {size}\nmore"))
        for path, size in (("/a/model.pt", "1.5e-3"), ("/b/c/model.pt", "27"))
    )
    assert one == other == FailurePlace(message="no ... of size #")


def test_a_message_of_one_long_word_does_not_take_long():
    long = failed("ArtifactRaised", reason="a/" + "b" * 2**20)
    assert place_of(long).message == "a/" + "b" * 118


def test_an_entry_has_the_severity_and_the_tests_own_name():
    pattern = SizePattern(kind="from", numbers=(5,), fails=True)
    sizes = Sizes(dim="batch", example=2, ok=(2, 4), failing=(5, 6), pattern=pattern)
    verdict = failed(
        "OutputsDiffer",
        differences=(differs("output", max_abs=1.0, own_error=3e-6),),
        diagnosis=Diagnosis(sizes=(sizes,), owner="translation"),
        recipe={"leaves": [{"kind": "example", "edits": []}]},
    )
    entry = entry_of(verdict, "a.py::test[onnx-cpu-1]", reason="why", since="2026-01-02")
    assert (entry.test, entry.reason, entry.since) == ("a.py::test[1]", "why", "2026-01-02")
    assert entry.severity == severity_of(verdict)
    assert entry.severity.sizes == {"batch": "fails from 5"}
    assert (entry.severity.error, entry.severity.stage) == (3.3e5, "translation")
