"""diagnosis/rules.py: each applies on its evidence, and on no less."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pytest_torchexport.diagnosis import changes, control, kinds, numbers, rules
from pytest_torchexport.diagnosis.conversions import Conversion
from pytest_torchexport.diagnosis.evidence import Given
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.explore.conditions import Condition
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
ITEM = SourceLine("net.py", 8, "top = x.max().item()")
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
    "loops": (),
    "sizes": {},
    "arguments": {},
    "agrees_with_the_examples_arguments": False,
    "conversions": (),
    "frozen_numbers": {},
    "read_in_the_call": {},
    "read_by_eager": {},
    "drawn_outside_torch": {},
    "seeded_at": None,
    "changed_by_eager": {},
    "replaced_by_eager": frozenset(),
    "registered_by_eager": frozenset(),
    "changed_by_the_export": {},
    "agrees_after_a_run": False,
    "agrees_in_eval_mode": False,
    "starts_with": (),
    "caches": frozenset(),
}


def evidence(**facts):
    known = {**NOTHING, **facts}
    return SimpleNamespace(is_onnx=known["target"].startswith("onnx"), **known)


def difference(path, kind="state", expected="1", actual="0", **fields):
    return Difference(kind=kind, path=path, expected=expected, actual=actual, **fields)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_no_rule_applies_without_evidence(rule):
    for failure in (OutputsDiffer(), ArtifactRaised(), StateDiffers(), BranchFrozen()):
        assert rule(evidence(failure=failure)) is None


def test_a_loop_that_the_export_ran_another_number_of_times_is_named():
    text = "for i in chosen.unique():"
    loop = Condition(
        file="net.py",
        first_line=7,
        line=7,
        end_line=7,
        kind="for",
        text="chosen.unique()",
        statement=text,
        function="forward",
    )
    cause = control.unrolled(evidence(failure=ArtifactRaised(), loops=(loop,)))
    assert (cause.kind, cause.where) == ("unrolled loop", SourceLine("net.py", 7, text))
    assert rules.OWNER_OF[cause.kind] == "model"


WRITTEN = Structural(
    kind="stored",
    operator="aten.add_",
    argument="self",
    eager="int64[2, 2]",
    artifact="int64[2, 2]",
    where=SourceLine("net.py", 4, "idx = torch.tensor([[0, 0], [1, 1]])"),
)


def test_a_tensor_that_forward_makes_and_writes_into_is_kept_by_the_trace():
    cause = changes.written_constant(evidence(structural=WRITTEN))
    assert (cause.kind, cause.where) == ("changed by the export", WRITTEN.where)
    assert "each run writes into it again" in cause.text
    for other in (
        replace(WRITTEN, operator="aten.add"),
        replace(WRITTEN, argument="other"),
        replace(WRITTEN, artifact="buffer table"),
        replace(WRITTEN, kind="constant"),
    ):
        assert changes.written_constant(evidence(structural=other)) is None
    assert changes.written_constant(evidence(structural=WRITTEN, target="export")) is None


# -- numbers ---------------------------------------------------------------------------------------

FROZEN = {
    "structural": VIEW,
    "sizes": {"batch": Given(4, 1)},
    "conversions": (Conversion(SIZE, (4.0,)), Conversion(ITEM, (2.5,))),
    "read_by_eager": {ITEM: {2.5}},
}


def test_a_size_that_became_a_number_has_its_own_line_and_the_line_to_write():
    cause = numbers.frozen_size(evidence(**FROZEN))
    assert (cause.kind, cause.where) == ("frozen size", SIZE)
    assert cause.text.startswith("size of aten.view is 4 (the example's batch) in the trace, 1 in")
    assert cause.remedy == "leave the size as it is: n = x.shape[0]"


@pytest.mark.parametrize(
    "missing",
    [
        {"structural": replace(VIEW, kind="other")},
        {"structural": replace(VIEW, read_at=ITEM), "conversions": (Conversion(ITEM, (4.0,)),)},
        {"structural": replace(VIEW, read_at=ITEM), "conversions": (Conversion(SIZE, (4.0,)),)},
        {"sizes": {}},
        {"conversions": ()},
        {"conversions": (Conversion(SIZE),)},  # a list or an array
        {"read_by_eager": {SIZE: {1.0}, ITEM: {2.5}}},  # eager reads it from a tensor
    ],
)
def test_no_size_is_frozen_without(missing):
    assert numbers.frozen_size(evidence(**{**FROZEN, **missing})) is None


def test_a_value_that_is_the_size_in_the_failing_call_alone_is_not_blamed():
    chance = evidence(
        **FROZEN | {"structural": replace(VIEW, read_at=ITEM), "read_by_eager": {ITEM: {1.0}}}
    )
    assert numbers.frozen_size(chance).where == SIZE
    assert numbers.baked_value(chance) is None


@pytest.mark.parametrize(
    ("conversions", "read"),
    [
        ((Conversion(SIZE, (4.0,)), Conversion(ITEM, (4.0,))), {ITEM: {4.0}}),
        ((Conversion(SIZE, (4.0, 3.0)),), {SIZE: {3.0}}),
        ((Conversion(SIZE, (4.0, 4.0)),), {SIZE: {4.0}}),
    ],
    ids=["a value of the same number", "another value on its line", "the same number on its line"],
)
def test_a_size_is_told_from_a_value(conversions, read):
    given = evidence(**{**FROZEN, "conversions": conversions, "read_by_eager": read})
    assert numbers.baked_value(given) is None
    assert numbers.frozen_size(given).where == SIZE


def test_a_value_that_is_the_size_in_both_calls_is_a_value():
    given = evidence(
        **{**FROZEN, "conversions": (Conversion(ITEM, (4.0,)),), "read_by_eager": {ITEM: {1.0}}}
    )
    assert numbers.baked_value(given).where == ITEM
    assert numbers.frozen_size(given) is None


def test_of_several_sizes_that_fit_none_is_named():
    several = (Conversion(SIZE, (4.0,)), Conversion(WRITE, (4.0,)))
    assert numbers.frozen_size(evidence(**{**FROZEN, "conversions": several})) is None


def test_of_several_sizes_the_one_on_the_operators_own_line_is_named():
    several = (Conversion(SIZE, (3.0,)), Conversion(USE, (2.0,)))
    cause = numbers.frozen_size(evidence(**{**FROZEN, "conversions": several}))
    assert cause.where == USE


def test_of_several_sizes_the_one_that_is_no_truth_value_is_named():
    several = (Conversion(SIZE, (3.0,)), Conversion(WRITE, (0.0,), decides=True))
    cause = numbers.frozen_size(evidence(**{**FROZEN, "conversions": several}))
    assert cause.where == SIZE


BAKED = {
    "structural": replace(VIEW, eager="2", artifact="2.5", numbers=(2.0, 2.5), read_at=ITEM),
    "conversions": (Conversion(SIZE, (4.0,)), Conversion(ITEM, (2.5,))),
    "read_by_eager": {ITEM: {2.0}},
}


def test_a_number_that_python_reads_from_a_tensor():
    cause = numbers.baked_value(evidence(**BAKED))
    assert (cause.kind, cause.where) == ("baked value", ITEM)
    assert cause.remedy == "keep it a tensor: top = x.max()"


def test_a_line_that_reads_the_same_in_the_call_as_at_the_export_is_not_the_cause():
    flag = SourceLine("net.py", 8, "padded = mask.any().item()")
    conversions = (Conversion(flag, (0.0,)),)
    same = evidence(structural=VIEW, conversions=conversions, read_by_eager={flag: {0.0}})
    assert numbers.baked_value(same) is None
    other = evidence(structural=VIEW, conversions=conversions, read_by_eager={flag: {1.0}})
    assert numbers.baked_value(other).where == flag


def test_an_array_that_python_makes_of_a_tensor():
    stored = replace(VIEW, kind="stored", eager="float32[3]", artifact="float32[3]", numbers=())
    cause = numbers.baked_value(evidence(structural=stored, conversions=(Conversion(USE),)))
    assert cause.where == USE
    assert "another constant in the trace than in eager" in cause.text


def test_no_value_is_baked_if_only_sizes_become_numbers():
    assert (
        numbers.baked_value(evidence(**FROZEN | {"conversions": (Conversion(SIZE, (4.0,)),)}))
        is None
    )


def test_a_draw_of_python():
    drawn = {"structural": VIEW, "drawn_outside_torch": {USE: "Python's random"}}
    cause = numbers.baked_draw(evidence(**drawn))
    assert (cause.kind, cause.where) == ("baked value", USE)
    assert "drawn from Python's random" in cause.text
    assert numbers.baked_draw(evidence(**drawn | {"drawn_outside_torch": {SIZE: "numpy"}})) is None


def test_an_argument_that_is_no_tensor():
    given = {"structural": VIEW, "arguments": {"k": Given(4, 1), "flag": Given("a", "b")}}
    cause = numbers.baked_argument(evidence(**given))
    assert "the argument k is 1 in the call, and 4 of the example is a constant" in cause.text
    assert numbers.baked_argument(evidence(**given | {"arguments": {"k": Given(5, 1)}})) is None


def test_a_guard_on_an_argument():
    refused = {
        "failure": ArtifactRaised("AssertionError: Guard failed: k == 2"),
        "arguments": {"k": Given(2, 3)},
    }
    cause = numbers.guard(evidence(**refused))
    assert cause.kind == "guard"
    assert "the program takes k=2 alone" in cause.text
    assert numbers.guard(evidence(**refused | {"arguments": {}})) is None


def test_an_argument_for_which_an_onnx_file_has_no_input():
    facts = {
        "target": "onnx",
        "artifact": "the ONNX file",
        "arguments": {"k": Given(2, 3)},
        "agrees_with_the_examples_arguments": True,
    }
    cause = numbers.left_out_argument(evidence(**facts))
    assert cause.kind == "baked value"
    assert "no input for k, which is no tensor: it is 3 in the call, and 2 of the" in cause.text
    assert numbers.left_out_argument(evidence(**facts | {"target": "export"})) is None
    wrong = facts | {"agrees_with_the_examples_arguments": False}
    assert numbers.left_out_argument(evidence(**wrong)) is None


# -- control flow ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "on_values", "expected", "remedy"),
    [
        ("if", True, "frozen branch", "torch.where, or compile"),
        ("if", False, "frozen branch", "export once for each side"),
        ("while", True, "unrolled loop", "@torch.jit.script"),
        ("for", False, "unrolled loop", "@torch.jit.script"),
    ],
)
def test_a_branch_and_a_loop(kind, on_values, expected, remedy):
    branch = SimpleNamespace(kind=kind, on_values=on_values, text="x.sum() > 0", where=USE)
    facts = evidence(failure=BranchFrozen(), branch=branch)
    cause = control.decided_once(facts)
    assert (cause.kind, cause.where) == (expected, USE)
    assert remedy in cause.remedy


@pytest.mark.parametrize(
    ("text", "of_objects"),
    [
        ("x.is_contiguous()", True),
        ("q is k", True),
        ("q is not k", True),
        ("mask is None", False),
        ("mask is not None", False),
        ("x.shape[0] > 3", False),
        ("x.stride(0) == 1", True),
        ("x.shape[0] % stride == 0", False),
    ],
)
def test_sides_that_no_caller_of_the_artifact_knows_are_not_exported_each(text, of_objects):
    branch = SimpleNamespace(kind="if", on_values=False, text=text, where=USE)
    cause = control.decided_once(evidence(failure=BranchFrozen(), branch=branch))
    assert ("make the inputs alike" in cause.remedy) is of_objects
    assert ("export once for each side" in cause.remedy) is not of_objects


@pytest.mark.parametrize(
    ("text", "of_argument"),
    [('reduction == "mean"', True), ("k % 2 == 1", False), ("self.reduction", True)],
)
def test_sides_that_an_argument_decides_are_exported_by_its_value(text, of_argument):
    branch = SimpleNamespace(kind="if", on_values=True, text=text, where=USE)
    facts = evidence(
        failure=BranchFrozen(), branch=branch, arguments={"reduction": Given("mean", "sum")}
    )
    remedy = control.decided_once(facts).remedy
    assert ("once for each value of the argument" in remedy) is of_argument
    assert ("torch.where" in remedy) is not of_argument


# -- state -----------------------------------------------------------------------------------------

LAST = StateRef("buffer", "last")


def test_a_buffer_that_a_trace_leaves_in_its_place():
    facts = {
        "failure": StateDiffers(differences=(difference("buffer last"),)),
        "changed_by_eager": {LAST: WRITE},
        "replaced_by_eager": frozenset({"last"}),
    }
    cause = changes.replaced_buffer(evidence(**facts))
    assert (cause.kind, cause.where) == ("replaced buffer", WRITE)
    assert cause.remedy == "write into it: self.last.copy_(x.mean(0))"
    other = StateDiffers(differences=(difference("output"),))
    assert changes.replaced_buffer(evidence(**facts | {"failure": other})) is None


def test_an_onnx_file_keeps_no_state():
    facts = {
        "target": "onnx",
        "failure": StateDiffers(differences=(difference("output"),)),
        "changed_by_eager": {LAST: WRITE},
    }
    cause = changes.stateless(evidence(**facts))
    assert (cause.kind, cause.where) == ("dropped mutation", WRITE)
    assert cause.text.startswith("forward changes buffer last: an ONNX file")
    assert changes.stateless(evidence(**facts | {"target": "export"})) is None
    assert changes.stateless(evidence(**facts | {"failure": OutputsDiffer()})) is None
    assert changes.stateless(evidence(**facts | {"changed_by_eager": {}})) is None


def test_an_onnx_file_writes_to_no_input():
    failure = StateDiffers(differences=(difference("input x after the call"),))
    cause = changes.stateless(evidence(target="onnx", failure=failure))
    assert cause.text.startswith("forward changes input x: an ONNX file writes to no input")
    assert cause.where is None


def test_a_buffer_into_which_a_program_copies_another_size():
    facts = {
        "target": "export",
        "artifact": "the program",
        "failure": ArtifactRaised("The size of tensor a (0) must match"),
        "structural": Structural(kind="extra", operator="aten.copy_", artifact="aten.copy_"),
        "changed_by_eager": {LAST: WRITE},
        "replaced_by_eager": frozenset({"last"}),
    }
    cause = changes.replaced_buffer(evidence(**facts))
    assert "the program copies its numbers into the old one, of another size" in cause.text
    assert changes.replaced_buffer(evidence(**facts | {"structural": VIEW})) is None


def test_a_trace_that_starts_with_what_tracing_changed():
    facts = {
        "failure": StateDiffers(),
        "starts_with": ("buffer last",),
        "changed_by_eager": {LAST: WRITE},
    }
    cause = changes.changed_by_the_export(evidence(**facts))
    assert (cause.kind, cause.where) == ("changed by the export", WRITE)
    assert "traced.load_state_dict(state)" in cause.remedy
    assert changes.changed_by_the_export(evidence(**facts | {"target": "script"})) is None
    cached = changes.changed_by_the_export(evidence(**facts, caches=frozenset({"buffer last"})))
    assert "state_dict" not in cached.remedy


def test_an_onnx_file_that_has_what_the_exporters_own_run_changed():
    facts = {
        "target": "onnx_legacy",
        "changed_by_the_export": {LAST: WRITE},
        "agrees_after_a_run": True,
    }
    cause = changes.changed_by_the_old_exporter(evidence(**facts))
    assert (cause.kind, cause.where) == ("changed by the export", WRITE)
    for other in (
        {"target": "onnx"},
        {"failure": StateDiffers()},
        {"changed_by_the_export": {}},
        {"agrees_after_a_run": False},
    ):
        assert changes.changed_by_the_old_exporter(evidence(**facts | other)) is None


def test_an_attribute_that_the_artifact_does_not_have():
    facts = {
        "failure": StateDiffers(),
        "structural": VIEW,
        "changed_by_eager": {StateRef("attribute", "calls"): WRITE},
    }
    cause = changes.dropped_mutation(evidence(**facts))
    assert (cause.kind, cause.where) == ("dropped mutation", WRITE)
    assert cause.text.startswith("forward changes attribute calls")
    assert changes.dropped_mutation(evidence(**facts | {"structural": None})) is None
    assert changes.dropped_mutation(evidence(**facts | {"changed_by_eager": {LAST: WRITE}})) is None


def test_a_buffer_that_forward_registers():
    facts = {
        "failure": StateDiffers(),
        "structural": VIEW,
        "changed_by_eager": {LAST: WRITE},
        "registered_by_eager": frozenset({"last"}),
    }
    assert changes.dropped_mutation(evidence(**facts)).text.startswith("forward registers buffer")


def test_an_object_that_forward_is_given():
    failure = StateDiffers(differences=(difference("inputs[0][1]['length']"),))
    cause = changes.dropped_mutation(evidence(failure=failure))
    assert "changes an object that it is given (inputs[0][1]['length'])" in cause.text
    tensor = StateDiffers(differences=(difference("inputs[0][0]", total=3),))
    assert changes.dropped_mutation(evidence(failure=tensor)) is None


def test_a_seed_that_forward_sets():
    draw = Structural(kind="same", operator="aten.randn", draws=True)
    cause = changes.own_seed(evidence(structural=draw, seeded_at=SIZE))
    assert (cause.kind, cause.where) == ("own seed", SIZE)
    assert changes.own_seed(evidence(structural=draw)) is None
    assert changes.own_seed(evidence(structural=replace(draw, draws=False), seeded_at=SIZE)) is None


# -- kinds of operators ----------------------------------------------------------------------------


def test_another_dtype_of_equal_operands():
    same = Structural(kind="same", operator="aten.sum", eager="float16[2]", artifact="float32[2]")
    assert kinds.dtype_promotion(evidence(structural=same)).kind == "dtype promotion"
    equal = replace(same, artifact="float16[2]")
    assert kinds.dtype_promotion(evidence(structural=equal)) is None


@pytest.mark.parametrize(
    "structural",
    [
        Structural(kind="extra", operator="aten.native_dropout", artifact="aten.native_dropout"),
        replace(
            VIEW,
            operator="aten.native_batch_norm",
            argument="training",
            eager="False",
            artifact="True",
        ),
    ],
)
def test_an_operator_in_training_mode(structural):
    cause = kinds.training_mode(evidence(structural=structural))
    assert cause.kind == "mode-dependent operator"
    assert cause.text.startswith("the trace runs")
    assert cause.remedy == "call .eval() before the export"


def test_an_old_onnx_export_in_eval_mode():
    cause = kinds.exported_in_eval_mode(evidence(target="onnx_legacy", agrees_in_eval_mode=True))
    assert cause.kind == "mode-dependent operator"
    assert "TrainingMode.PRESERVE" in cause.remedy
    assert kinds.exported_in_eval_mode(evidence(agrees_in_eval_mode=True)) is None


def test_a_number_that_becomes_a_tensor():
    differs = difference("output[1]", kind="structure", expected="4", actual="int64[]")
    cause = kinds.number_as_tensor(evidence(failure=StructureDiffers(differences=(differs,))))
    assert cause.text == "output[1] is the number 4 in eager: the trace returns a tensor"
    none = replace(differs, expected="None")
    assert kinds.number_as_tensor(evidence(failure=StructureDiffers(differences=(none,)))) is None
