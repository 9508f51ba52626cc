"""Results made by hand for the tests of reports: small ones, and a whole run with texts that try to break out.

A run has an item of each outcome. What it looks like in each report is in tests/golden.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from pytest_torchexport.results.diagnosis import (
    Cause,
    Diagnosis,
    Known,
    Place,
    SizePattern,
    Sizes,
    Stage,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import (
    Assumption,
    Branch,
    Difference,
    ItemResult,
    KnownFailure,
    KnownMatch,
    Recorded,
    RunResults,
    SeededBug,
    Verdict,
)

# It would be markup of Markdown, a command of GitHub, or move a terminal's cursor.
HOSTILE = "<script>alert(1)</script> `a` | b \\| c ``` \x1b[31m @me [x](http://x) \u202e\n## d ::error::e % , : \udc80 <!-- -->"
ENVIRONMENT = {"python": "3.11.14", "torch": "2.13.0", "onnx": "1.23.2", "pytest": "9.0.1"}
ENVIRONMENT |= {"date": "2026-07-01 09:00:00Z", "command": "pytest -k 'net & \"a\"'"}


def verdict(target="trace", status="passed", **fields):
    fields = {"subject": "Net", "device": "cpu", **fields}
    return Verdict(target=target, status=status, **fields)


def failed(target="trace", *, line=12, cause="frozen branch", **fields):
    """A frozen branch, at a line of the user's."""
    where = fields.setdefault("where", SourceLine("net.py", line, "if x.sum() > 0:"))
    known = {
        "failure": "BranchFrozen",
        "reason": f"{where}: the artifact has no branch here",
        "call": "x=float32[2, 3] ones",
        "calls": {"example": 1, "drawn": 50, "failed": 13},
        "seed": 1,
        "seconds": {"export": 0.5},
        "differences": (dataclasses.replace(DIFFERS, path="output"),),
        "diagnosis": Diagnosis(
            owner="model",
            place=Place(operator="aten.mul", module="head (Head)"),
            causes=(Cause(kind=cause, text="Python decides once", remedy="use torch.where"),),
        ),
    }
    return verdict(target, "failed", **(known | fields))


def recorded(number, count=2):
    where = SourceLine("test_net.py", 9, "Net()(x)")
    return Recorded(number=number, count=count, call="float32[2]", where=where)


def twice(found):
    """The verdicts of two recorded modules of one class."""
    calls = ((number, f"float32[{number}, 3]") for number in (1, 2))
    return tuple(
        dataclasses.replace(found, recorded=Recorded(number=number, count=2, call=call, where=LINE))
        for number, call in calls
    )


def item(test, *verdicts, outcome=None, target="trace", device="cpu", **fields):
    """An item of a test on the target of its first verdict."""
    if verdicts:
        target, device = verdicts[0].target, verdicts[0].device
    column = f"{target}-{device}".replace(":", "")
    name = test if column in test else f"{test}[{column}]"
    how = outcome or (verdicts[0].status if verdicts else "failed")
    return ItemResult(name, how, tuple(verdicts), target=target, device=device, **fields)


def known_and_fixed(test):
    """An item that passes, but for which a failure is known: it is red until that is removed."""
    entry = KnownFailure(
        test=test, target="trace", device="cpu", subject="Net", failure="BranchFrozen", reason="old"
    )
    match = KnownMatch(status="fixed", now=entry, known=entry, file="known/a.toml")
    return item(test, verdict(), outcome="failed", known=(match,))


def run_of(*items, complete=True, **fields):
    return RunResults(items=items, environment=ENVIRONMENT, complete=complete, **fields)


# -- a whole run -----------------------------------------------------------------------------------

LINE = SourceLine("src/net/normalize.py", 10, "if x.sum() > 10:")
PLACE = SourceLine(LINE.file, LINE.line)
# It would run if any text of a report were taken for code: in a page, an attribute, or a script.
EVIL_TEXT = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>\"'&{{7*7}}\x1b[31m\u202e"

SECONDS = {
    "prepare": 0.31,
    "export": 1.42,
    "save": 0.04,
    "load in the clean process": 0.52,
    "first calls there": 0.11,
    "branch search": 0.08,
    "boundary calls": 0.04,
    "drawn calls": 0.22,
    "rows of calls": 0.03,
}
CALLS = {"example": 1, "boundary": 7, "explored": 4, "drawn": 41, "searched": 6}


def branch(diverges: str = "verified") -> Branch:
    return Branch(
        where=PLACE,
        statement=LINE.text,
        text="x.sum() > 10",
        module="",
        kind="if",
        counts={"True": 13, "False": 49},
        status={"True": diverges, "False": "verified"},
        on_values=True,
        in_artifact=False,
    )


DIFFERS = Difference(
    kind="values",
    path="output['scores']",
    expected="1.666667",
    actual="2",
    what="float32[4, 3]",
    mismatched=12,
    total=12,
    max_abs=0.3333,
    index=(0, 0),
    rtol=1.3e-6,
    atol=1e-5,
    own_error=2.4e-7,
    cause="bug",
)
CHECKED = verdict("export", subject="Encoder", seed=1, seconds=SECONDS)
PASSED = dataclasses.replace(
    CHECKED,
    calls=CALLS,
    reached={"batch": (1, 2, 3, 4, 5, 6, 8), "time": (1, 2, 7, 16, 31)},
    assumed=(
        Assumption("dim", "dim 0 of x is 'batch', 1 to 8"),
        Assumption("values", "x holds values of the example's scale", "x"),
    ),
    notes=("the exported program takes x only by position",),
    max_error=2.4e-7,
    branches=(branch(),),
)
ROUNDED = dataclasses.replace(
    DIFFERS,
    expected="1.25",
    actual="1.25001",
    what="",
    mismatched=1,
    max_abs=1e-5,
    index=(0, 1),
    own_error=8e-6,
    cause="rounding",
)
WEAK = dataclasses.replace(
    PASSED,
    target="script",
    cautions=("eager returns nan for 3 of 41 drawn calls",),
    explained=(ROUNDED,),
)
FROZEN = dataclasses.replace(
    CHECKED,
    subject="Normalize",
    target="trace",
    status="failed",
    failure="BranchFrozen",
    reason=f"{LINE} the artifact has no branch here, and eager takes True on the call below",
    details=("so outputs differ from eager",),
    where=LINE,
    differences=(DIFFERS,),
    call="x=float32[4, 3] ones",
    shrunk=True,
    calls={**CALLS, "failed": 13},
    reached={"batch": (1, 2, 3, 4, 5, 6, 7, 8)},
    assumed=(Assumption("dim", "dim 0 of x is 'batch', 1 to 8"),),
    seconds={**SECONDS, "diagnosis": 0.61},
    max_error=0.3333,
    branches=(branch("diverges"), branch("unreached")),
    script="torchexport-failures/test_normalize-trace-cpu/reproduce.py",
    diagnosis=Diagnosis(
        owner="model",
        causes=(
            Cause(
                kind="frozen branch",
                text="Python decides 'x.sum() > 10' once, at the export: the trace has only that side",
                remedy="compute both sides and choose with torch.where, or compile the function that has it by @torch.jit.script",
                where=LINE,
            ),
        ),
        sizes=(
            Sizes(
                dim="batch",
                example=2,
                ok=(1, 2, 3),
                failing=(4, 5, 6, 7, 8),
                pattern=SizePattern(kind="from", numbers=(4,), fails=True),
            ),
        ),
    ),
)
RUNTIME = dataclasses.replace(
    CHECKED,
    subject="Angle",
    target="onnx",
    status="failed",
    failure="OutputsDiffer",
    differences=(
        dataclasses.replace(
            DIFFERS,
            path="output",
            expected="0",
            actual="-3.141593",
            what="float32[2]",
            mismatched=1,
            total=2,
            max_abs=math.pi,
            index=(1,),
            own_error=0.0,
        ),
    ),
    call="y=float32[2] zeros, x=float32[2] ones",
    calls={**CALLS, "failed": 2},
    reached={"n": (1, 2, 3)},
    kept="torchexport-failures/test_angle-onnx-cpu/model.onnx",
    diagnosis=Diagnosis(
        owner="translation",
        place=Place(
            operator="Atan", where=SourceLine("src/net/angle.py", 4, "return torch.atan2(y, x)")
        ),
        stages=(
            Stage(name="ExportedProgram", agrees=True),
            Stage(name="ExportedProgram", agrees=True),
            Stage(name="ONNX without the exporter's optimizer, by onnx.reference", agrees=False),
            Stage(
                name="ONNX by ONNX Runtime", agrees=None, why="the time for a diagnosis was over"
            ),
        ),
        known=(
            Known(
                issue="https://github.com/microsoft/onnxscript/issues/1",
                text="atan2(0, x) is -pi",
                fixed_in="onnxscript 0.8",
                remedy="write torch.angle",
            ),
        ),
    ),
)
REFUSED = verdict(
    "export",
    "skipped",
    subject="Normalize",
    skip="refused",
    reason="export refused the module: data-dependent condition u0 > 10",
    seconds={"export": 0.2},
)
EVIL = dataclasses.replace(
    FROZEN,
    subject=EVIL_TEXT,
    reason=EVIL_TEXT,
    notes=(EVIL_TEXT,),
    output=EVIL_TEXT,
    call=EVIL_TEXT,
    warnings=(EVIL_TEXT,),
    branches=(
        dataclasses.replace(
            branch("diverges"), statement=EVIL_TEXT, text=EVIL_TEXT, module=EVIL_TEXT
        ),
    ),
    seconds={EVIL_TEXT: 1.0},
    reached={EVIL_TEXT: (1, 2)},
    script=EVIL_TEXT,
    differences=(dataclasses.replace(FROZEN.differences[0], path=EVIL_TEXT),),
    diagnosis=Diagnosis(
        causes=(Cause(kind="frozen branch", text=EVIL_TEXT, remedy=EVIL_TEXT),),
        known=(
            Known(
                issue="javascript:window.hurt=3",
                text=EVIL_TEXT,
                fixed_in=EVIL_TEXT,
                remedy="https://x.org/'onclick='window.hurt=4",
            ),
        ),
        stages=(Stage(name="eager", agrees=None, why=EVIL_TEXT),),
        sizes=(dataclasses.replace(FROZEN.diagnosis.sizes[0], dim=EVIL_TEXT),),
    ),
    self_test=(
        SeededBug(kind="frozen size", dim=EVIL_TEXT, result="missed", explanation=EVIL_TEXT),
    ),
)
SHOWN = EVIL_TEXT.replace("\x1b", "<U+001B>").replace("\u202e", "<U+202E>")


ITEMS = (
    item("tests/test_normalize.py::test_normalize", FROZEN),
    item("tests/test_normalize.py::test_normalize", WEAK),
    item("tests/test_normalize.py::test_normalize", REFUSED),
    item("tests/test_normalize.py::test_two", *twice(FROZEN)),
    item("tests/test_normalize.py::test_two", *twice(PASSED)),
    item("tests/test_angle.py::TestAngle::test_angle", RUNTIME),
    item(
        "tests/test_angle.py::TestAngle::test_angle[onnx-cuda0]",
        dataclasses.replace(RUNTIME, device="cuda:0"),
        outcome="xfailed",
    ),
    item("tests/test_angle.py::TestAngle::test_angle", PASSED, outcome="xpassed"),
    item(f"tests/test_evil.py::test_evil[trace-cpu-{EVIL_TEXT}]", EVIL),
    item(
        "tests/test_body.py::test_body",
        PASSED,
        outcome="failed",
        reason="assert 3 == 4",
        traceback=">   assert len(y) == 4\nE   assert 3 == 4\n\ntests/test_body.py:9: AssertionError",
    ),
    item(
        "tests/test_body.py::test_crash",
        target="onnx",
        reason="worker 'gw0' crashed while running 'tests/test_body.py::test_crash[onnx-cpu]'",
    ),
    item("tests/test_body.py::test_late", outcome="running"),
    ItemResult("tests/test_case.py::Case::test_all", "failed", (FROZEN, PASSED, RUNTIME)),
    ItemResult("tests/test_case.py::Case::test_broken", "failed", (), reason="NameError: nett"),
)
RUN = run_of(*ITEMS, complete=False)

# -- any run ---------------------------------------------------------------------------------------

texts = st.text(max_size=4)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
SCALARS = {
    str: texts,
    int: st.integers(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    Any: values,
}


def any_of(kind):
    """A strategy for a type of the results, with something in each field of a dataclass."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        return st.builds(
            kind, **{each.name: any_of(kinds[each.name]) for each in dataclasses.fields(kind)}
        )
    if origin in (types.UnionType, typing.Union):
        return st.one_of(
            st.none(), *(any_of(each) for each in inside if each is not types.NoneType)
        )
    if origin in (tuple, Sequence):
        return st.lists(any_of(inside[0]), max_size=1).map(tuple)
    if origin in (dict, Mapping):
        return st.dictionaries(texts, any_of(inside[1]), max_size=1)
    return st.sampled_from(inside) if origin is typing.Literal else SCALARS[kind]


runs = st.builds(
    RunResults,
    items=st.lists(any_of(ItemResult), max_size=2).map(tuple),
    environment=st.dictionaries(texts, texts, max_size=2),
    complete=st.booleans(),
)
