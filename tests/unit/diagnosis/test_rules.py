"""diagnosis/rules.py: each applies on its facts, and on no less."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pytest_torchexport.diagnosis import rules
from pytest_torchexport.diagnosis.evidence import Changes, Given
from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.results.diagnosis import Structural
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

SIZE = SourceLine("net.py", 7, "n = int(x.shape[0])")
USE = SourceLine("net.py", 9, "return x.view(n, -1) - top")
WRITE = SourceLine("net.py", 5, "self.last = x.mean(0)")
VIEW = Structural(
    kind="constant",
    operator="aten.view",
    argument="size",
    eager="1",
    artifact="4",
    numbers=(1.0, 4.0),
    where=USE,
)
NOTHING = {
    "target": "trace",
    "artifact": "the trace",
    "failure": OutputsDiffer(),
    "structural": None,
    "branch": None,
    "beside": None,
    "beside_trace": None,
    "case": None,
    "loops": (),
    "sizes": {},
    "arguments": {},
    "drawn_outside_torch": {},
    "seeded_at": None,
    "changed_by_the_export": {},
    "starts_with": (),
    "caches": frozenset(),
}


def facts(changed=None, replaced=(), registered=(), **given):
    known = {**NOTHING, **given}
    changes = Changes(
        changed=changed or {}, replaced=frozenset(replaced), registered=frozenset(registered)
    )
    is_onnx = known["target"].startswith("onnx")
    return SimpleNamespace(is_onnx=is_onnx, changes=changes, **known)


def difference(path, kind="state", expected="1", actual="0", **fields):
    return Difference(kind=kind, path=path, expected=expected, actual=actual, **fields)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_no_rule_applies_without_evidence(rule):
    for failure in (OutputsDiffer(), ArtifactRaised(), StateDiffers(), BranchFrozen()):
        assert rule(facts(failure=failure)) is None


WRITTEN = Structural(
    kind="stored",
    operator="aten.add_",
    argument="self",
    eager="int64[2, 2]",
    artifact="int64[2, 2]",
    where=SourceLine("net.py", 4, "idx = torch.tensor([[0, 0], [1, 1]])"),
)
LAST = StateRef("buffer", "last")
CALLS = StateRef("attribute", "calls")
SAME = Structural(kind="same", operator="aten.sum", eager="float16[2]", artifact="float32[2]")
DRAW = Structural(kind="same", operator="aten.randn", draws=True)
OUTPUT = StateDiffers(differences=(difference("output"),))
BUFFER = StateDiffers(differences=(difference("buffer last"),))
COPIED = Structural(kind="extra", operator="aten.copy_", artifact="aten.copy_")
NUMBER = difference("output[1]", kind="structure", expected="4", actual="int64[]")
INPUT = StateDiffers(differences=(difference("input x after the call"),))
LENGTH = StateDiffers(differences=(difference("inputs[0][1]['length']"),))


@pytest.mark.parametrize(
    ("rule", "given", "kind", "where", "text"),
    [
        (
            rules.written_constant,
            {"structural": WRITTEN},
            "changed by the export",
            WRITTEN.where,
            "each run writes into it again",
        ),
        (
            rules.baked_draw,
            {"structural": VIEW, "drawn_outside_torch": {USE: "Python's random"}},
            "baked value",
            USE,
            "drawn from Python's random",
        ),
        (
            rules.guard,
            {
                "failure": ArtifactRaised("AssertionError: Guard failed: k == 2"),
                "arguments": {"k": Given(2, 3)},
            },
            "guard",
            None,
            "the program takes k=2 alone",
        ),
        (
            rules.replaced_buffer,
            {"failure": BUFFER, "changed": {LAST: WRITE}, "replaced": ["last"]},
            "replaced buffer",
            WRITE,
            "the trace leaves the old one there",
        ),
        (
            rules.replaced_buffer,
            {
                "target": "export",
                "failure": ArtifactRaised("The size of tensor a (0) must match"),
                "structural": COPIED,
                "changed": {LAST: WRITE},
                "replaced": ["last"],
            },
            "replaced buffer",
            WRITE,
            "copies its numbers into the old one, of another size",
        ),
        (
            rules.stateless,
            {"target": "onnx", "failure": OUTPUT, "changed": {LAST: WRITE}},
            "dropped mutation",
            WRITE,
            "forward changes buffer last: an ONNX file",
        ),
        (
            rules.stateless,
            {"target": "onnx", "failure": INPUT},
            "dropped mutation",
            None,
            "forward changes input x: an ONNX file writes to no input",
        ),
        (
            rules.changed_by_the_trace,
            {"failure": OUTPUT, "starts_with": ("buffer last",), "changed": {LAST: WRITE}},
            "changed by the export",
            WRITE,
            "the trace starts with the changed numbers",
        ),
        (
            rules.dropped_mutation,
            {"failure": OUTPUT, "structural": VIEW, "changed": {CALLS: WRITE}},
            "dropped mutation",
            WRITE,
            "forward changes attribute calls",
        ),
        (
            rules.dropped_mutation,
            {
                "failure": OUTPUT,
                "structural": VIEW,
                "changed": {LAST: WRITE},
                "registered": ["last"],
            },
            "dropped mutation",
            WRITE,
            "forward registers buffer",
        ),
        (
            rules.dropped_mutation,
            {"failure": LENGTH},
            "dropped mutation",
            None,
            "changes an object that it is given (inputs[0][1]['length'])",
        ),
        (
            rules.own_seed,
            {"structural": DRAW, "seeded_at": SIZE},
            "own seed",
            SIZE,
            "forward seeds torch before it draws",
        ),
        (
            rules.dtype_promotion,
            {"structural": SAME},
            "dtype promotion",
            None,
            "float16[2] in eager and float32[2] in the trace",
        ),
        (
            rules.number_as_tensor,
            {"failure": StructureDiffers(differences=(NUMBER,))},
            "number as a tensor",
            None,
            "output[1] is the number 4 in eager: the trace returns a tensor",
        ),
        (
            rules.training_mode,
            {
                "structural": Structural(
                    kind="extra", operator="aten.dropout", artifact="aten.dropout"
                )
            },
            "mode-dependent operator",
            None,
            "the trace runs aten.dropout in training mode",
        ),
        (
            rules.training_mode,
            {"structural": replace(VIEW, argument="training", eager="True", artifact="False")},
            "mode-dependent operator",
            USE,
            "eager runs aten.view in training mode",
        ),
    ],
)
def test_a_rule_applies_on_its_facts_and_on_no_less(rule, given, kind, where, text):
    cause = rule(facts(**given))
    assert (cause.kind, cause.where) == (kind, where)
    assert text in cause.text
    for fact in given.keys() - {"target", "failure"}:
        fewer = {name: value for name, value in given.items() if name != fact}
        other = rule(facts(**fewer))
        assert other is None or other.text != cause.text or other.where != cause.where


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        (rules.written_constant, {"structural": replace(WRITTEN, operator="aten.add")}),
        (rules.written_constant, {"structural": replace(WRITTEN, argument="other")}),
        (rules.written_constant, {"structural": replace(WRITTEN, artifact="buffer table")}),
        (rules.written_constant, {"structural": WRITTEN, "target": "export"}),
        (
            rules.replaced_buffer,
            {"failure": OUTPUT, "changed": {LAST: WRITE}, "replaced": ["last"]},
        ),
        (rules.stateless, {"target": "export", "failure": OUTPUT, "changed": {LAST: WRITE}}),
        (rules.own_seed, {"structural": replace(DRAW, draws=False), "seeded_at": SIZE}),
        (rules.dtype_promotion, {"structural": replace(SAME, artifact="float16[2]")}),
        (
            rules.number_as_tensor,
            {"failure": StructureDiffers(differences=(replace(NUMBER, expected="None"),))},
        ),
        (
            rules.dropped_mutation,
            {"failure": StateDiffers(differences=(difference("inputs[0][0]", total=3),))},
        ),
    ],
)
def test_a_rule_does_not_apply_on_others(rule, given):
    assert rule(facts(**given)) is None


def test_buffers_that_no_state_dict_has_are_copied():
    given = {"failure": OUTPUT, "starts_with": ("buffer last",), "changed": {LAST: WRITE}}
    assert "load_state_dict" in rules.changed_by_the_trace(facts(**given)).remedy
    cached = facts(**given, caches=frozenset({"buffer last"}))
    assert "state_dict" not in rules.changed_by_the_trace(cached).remedy


def test_a_branch_that_the_failure_is_about():
    branch = SimpleNamespace(kind="if", on_values=True, text="x.sum() > 0", where=USE)
    cause = rules.decided_once(facts(failure=BranchFrozen(), branch=branch))
    assert (cause.kind, cause.where) == ("frozen branch", USE)
