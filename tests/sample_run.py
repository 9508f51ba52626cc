"""A whole run made by hand, for the tests of pages: every picture, and texts that try to break out.

``sample.py`` has small results for the other reports.
"""

from __future__ import annotations

import dataclasses
import math

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
    Recorded,
    RunResults,
    SeededBug,
    Verdict,
)

LINE = SourceLine("src/net/normalize.py", 10, "if x.sum() > 10:")
PLACE = SourceLine(LINE.file, LINE.line)
# It would run if any text of a report were taken for code: in a page, an attribute, or a script.
HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>\"'&{{7*7}}\x1b[31m\u202e"

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


def branch(diverges: str = "verified", **fields) -> Branch:
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
        **fields,
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
CHECKED = Verdict(
    subject="Encoder", target="export", device="cpu", status="passed", seed=1, seconds=SECONDS
)
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
REFUSED = Verdict(
    subject="Normalize",
    target="export",
    device="cpu",
    status="skipped",
    skip="refused",
    reason="export refused the module: data-dependent condition u0 > 10",
    seconds={"export": 0.2},
)
EVIL = dataclasses.replace(
    FROZEN,
    subject=HOSTILE,
    reason=HOSTILE,
    notes=(HOSTILE,),
    output=HOSTILE,
    call=HOSTILE,
    warnings=(HOSTILE,),
    branches=(
        dataclasses.replace(branch("diverges"), statement=HOSTILE, text=HOSTILE, module=HOSTILE),
    ),
    seconds={HOSTILE: 1.0},
    reached={HOSTILE: (1, 2)},
    script=HOSTILE,
    differences=(dataclasses.replace(FROZEN.differences[0], path=HOSTILE),),
    diagnosis=Diagnosis(
        causes=(Cause(kind="frozen branch", text=HOSTILE, remedy=HOSTILE),),
        known=(
            Known(
                issue="javascript:window.hurt=3",
                text=HOSTILE,
                fixed_in=HOSTILE,
                remedy="https://x.org/'onclick='window.hurt=4",
            ),
        ),
        stages=(Stage(name="eager", agrees=None, why=HOSTILE),),
        sizes=(dataclasses.replace(FROZEN.diagnosis.sizes[0], dim=HOSTILE),),
    ),
    self_test=(SeededBug(kind="frozen size", dim=HOSTILE, result="missed", explanation=HOSTILE),),
)
SHOWN = HOSTILE.replace("\x1b", "<U+001B>").replace("\u202e", "<U+202E>")


def twice(verdict: Verdict) -> tuple[Verdict, ...]:
    """Return the verdicts of two recorded modules of one class."""
    return tuple(
        dataclasses.replace(
            verdict,
            recorded=Recorded(number=number, count=2, call=f"float32[{number}, 3]", where=LINE),
        )
        for number in (1, 2)
    )


def item(nodeid: str, *verdicts: Verdict, outcome: str = "", **fields) -> ItemResult:
    given = verdicts[0]
    fields = {"target": given.target, "device": given.device, **fields}
    return ItemResult(nodeid, outcome or given.status, verdicts, **fields)


ITEMS = (
    item("tests/test_normalize.py::test_normalize[trace-cpu]", FROZEN),
    item("tests/test_normalize.py::test_normalize[script-cpu]", WEAK),
    item("tests/test_normalize.py::test_normalize[export-cpu]", REFUSED),
    item("tests/test_normalize.py::test_two[trace-cpu]", *twice(FROZEN)),
    item("tests/test_normalize.py::test_two[export-cpu]", *twice(PASSED)),
    item("tests/test_angle.py::TestAngle::test_angle[onnx-cpu]", RUNTIME),
    item(
        "tests/test_angle.py::TestAngle::test_angle[onnx-cuda0]",
        dataclasses.replace(RUNTIME, device="cuda:0"),
        outcome="xfailed",
    ),
    item("tests/test_angle.py::TestAngle::test_angle[export-cpu]", PASSED, outcome="xpassed"),
    item(f"tests/test_evil.py::test_evil[trace-cpu-{HOSTILE}]", EVIL),
    item("tests/test_body.py::test_body[export-cpu]", PASSED, outcome="failed"),
    ItemResult(
        "tests/test_body.py::test_crash[onnx-cpu]",
        "failed",
        (),
        target="onnx",
        device="cpu",
        reason="worker 'gw0' crashed while running 'tests/test_body.py::test_crash[onnx-cpu]'",
    ),
    ItemResult(
        "tests/test_body.py::test_late[trace-cpu]", "running", (), target="trace", device="cpu"
    ),
    ItemResult("tests/test_case.py::Case::test_all", "failed", (FROZEN, PASSED, RUNTIME)),
    ItemResult("tests/test_case.py::Case::test_broken", "failed", (), reason="NameError: nett"),
)
ENVIRONMENT = {"python": "3.11.14", "torch": "2.13.0", "onnx": "1.23.2", "pytest": "9.0.1"}
RUN = RunResults(items=ITEMS, environment=ENVIRONMENT, complete=False)
