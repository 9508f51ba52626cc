"""Small results made by hand, an item of each outcome, for the tests of the reports.

``sample_run.py`` has a whole run for the tests of pages.
"""

from __future__ import annotations

import dataclasses
import json
import math

from pytest_torchexport.inputs.recipes import Edit, LeafRecipe, Recipe
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Place, SizePattern, Sizes
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import (
    ArtifactSize,
    Assumption,
    Branch,
    Difference,
    ItemResult,
    KnownFailure,
    KnownMatch,
    Latency,
    Recorded,
    RunResults,
    SeededBug,
    Uncovered,
    Verdict,
)

HOSTILE = "<script>alert(1)</script> `a` | b \\| c ``` \x1b[31m @me [x](http://x) \u202e\n## d ::error::e % , : \udc80 <!-- -->"
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0"}


def verdict(target="trace", status="passed", **fields):
    return Verdict(
        subject=fields.pop("subject", "Net"), target=target, device="cpu", status=status, **fields
    )


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
        "differences": (
            Difference(kind="values", path="output", expected="1", actual="2", what="float32[2]", mismatched=1, total=2, max_abs=1.0, index=(0,), rtol=0.0, atol=1e-5, own_error=1e-7, cause="bug"),
        ),
        "diagnosis": Diagnosis(
            owner="model",
            place=Place(operator="aten.mul", module="head (Head)"),
            causes=(Cause(kind=cause, text="Python decides once", remedy="use torch.where"),),
            sizes=(Sizes(dim="batch", example=2, ok=(2,), failing=(1, 3), pattern=SizePattern(kind="only", numbers=(2,), fails=False)),),
        ),
    }  # fmt: skip
    return verdict(target, "failed", **(known | fields))


def item(test, *verdicts, outcome=None, target="trace", reason=""):
    """An item of a test on the target of its first verdict."""
    at = verdicts[0].target if verdicts else target
    name = f"{test}[{at}-cpu]"
    how = outcome or (verdicts[0].status if verdicts else "failed")
    return ItemResult(name, how, tuple(verdicts), target=at, device="cpu", reason=reason)


def known_and_fixed(test):
    """An item that passes, but for which a failure is known: it is red until that is removed."""
    entry = KnownFailure(
        test=test, target="trace", device="cpu", subject="Net", failure="BranchFrozen", reason="old"
    )
    match = KnownMatch(status="fixed", now=entry, known=entry, file="known/a.toml")
    return dataclasses.replace(item(test, verdict(), outcome="failed"), known=(match,))


def recorded(number, **fields):
    return Recorded(
        number=number, count=2, call="float32[2]", where=SourceLine("test_net.py", 9, "Net()(x)")
    )


def run_of(*items, complete=True, **fields):
    return RunResults(items=items, environment=ENVIRONMENT, complete=complete, **fields)


SAMPLE = run_of(
    item("test_net.py::test_passed", verdict()),
    item("test_net.py::test_passed", verdict("onnx", cautions=("eager returns nan",))),
    item("test_net.py::test_frozen", failed()),
    item("test_net.py::test_frozen", failed("onnx")),
    item("test_net.py::test_other", failed(where=SourceLine("/usr/lib/x.py", 3, "y"), cause="baked value")),
    item("test_net.py::test_known", failed(), outcome="xfailed"),
    item("test_net.py::test_skipped", verdict("onnx", "skipped", skip="unavailable", reason="unavailable: no onnx")),
    item("test_net.py::test_body", reason="assert 2 == 3"),
    item("test_net.py::test_two", verdict(recorded=recorded(1)), failed(recorded=recorded(2)), outcome="failed"),
    item("test_net.py::test_died", outcome="running"),
    complete=False,
)  # fmt: skip

# A verdict with something in each field, and two with little.
FULL = Verdict(
    subject="Net",
    target="onnx",
    device="cuda:1",
    status="failed",
    failure="OutputsDiffer",
    reason="why",
    details=("one", "two"),
    where=SourceLine("net.py", 3, "x"),
    differences=(
        Difference(
            kind="values",
            path="output['a'][0]",
            expected="1",
            actual="2",
            what="float32[2]",
            mismatched=1,
            total=2,
            max_abs=1.0,
            max_rel=math.inf,
            index=(0, 1),
            rtol=1e-6,
            atol=0.0,
            own_error=1e-7,
        ),
        Difference(kind="structure", path="output", expected="tuple of 2", actual="Tensor"),
    ),
    call="x=float32[2]",
    recipe=json.loads(
        json.dumps(
            Recipe(
                sizes={"batch": 2}, leaves=(LeafRecipe(kind="zeros", edits=(Edit(1, 2.0),)),)
            ).as_dict()
        )
    ),
    shrunk=True,
    calls={"example": 1, "failed": 3},
    reached={"batch": (1, 2, 3)},
    uncovered=Uncovered(fixed_sizes=True, open_dims=("batch",), same_scale=True),
    assumed=(Assumption("dim", "dim 0 of x is 'batch'"), Assumption("argument", "n stays 5", "n")),
    baked=("n",),
    notes=("note",),
    cautions=("caution",),
    warnings=("UserWarning: w",),
    seed=7,
    seconds={"export": 0.5},
    max_error=1e-3,
    size=ArtifactSize(files=3000, weights=2000),
    latency=(
        Latency(
            sizes={"batch": 4},
            eager=288e-6,
            artifact=412e-6,
            ratio=1.43,
            low=1.38,
            high=1.51,
            pairs=30,
            slower=30,
            workers=2,
        ),
    ),
    recorded=Recorded(
        number=2, count=3, call="float32[2]", where=SourceLine("test_net.py", 9, "Net()(x)")
    ),
    self_test=(
        SeededBug(kind="frozen size", dim="batch", result="caught", explanation="call 1 of 2"),
        SeededBug(kind="cast to half", result="missed", explanation="2 calls agree"),
    ),
    branches=(
        Branch(
            where=SourceLine("net.py", 3),
            statement="if x.sum() > 0:",
            text="x.sum() > 0",
            module="blocks.0",
            kind="if",
            counts={"True": 3},
            status={"True": "verified", "False": "unreached"},
            on_values=True,
            in_artifact=False,
        ),
    ),
    diagnosis=Diagnosis(
        owner="capture",
        place=Place(operator="aten.view", where=SourceLine("net.py", 4)),
        causes=(Cause(kind="frozen size", text="size 2 is a constant"),),
        sizes=(
            Sizes(
                dim="batch",
                example=2,
                ok=(2,),
                failing=(1, 3),
                pattern=SizePattern(kind="only", numbers=(2,), fails=False),
            ),
        ),
    ),
)
SKIPPED = Verdict(
    subject="f",
    target="script",
    device="cpu",
    status="skipped",
    skip="refused",
    reason="script refused the module",
)
EMPTY = Verdict(subject="f", target="trace", device="cpu", status="passed")
