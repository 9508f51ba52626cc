"""checks/loops.py: faults of caches and of streams are found with their step, healthy loops pass."""

from __future__ import annotations

import re

import pytest
import torch
from loops import (
    FAULTS,
    HEALTHY,
    IDS,
    Chaos,
    Gru,
    Tied,
    cache,
    next_id,
    noise,
)
from slow import slow

from pytest_torchexport import SpecError, check_loop, raise_for_failure
from pytest_torchexport.results.text import details
from pytest_torchexport.results.verdict import Verdict

# What torch says of its own exporters is no news here.
pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {"diagnose": False}


def looped(name, *, target="trace", **changed):
    row = HEALTHY[name]
    given = {"carry": row.carry, "feed": row.feed, **OPTIONS, **changed}
    step = given.pop("step", None) or row.make()
    return check_loop(step.eval(), given.pop("args", row.args), target=target, **given)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_with_its_step_and_what_differs(name):
    fault = FAULTS[name]
    verdict = looped(fault.loop, artifact=fault.artifact())
    assert verdict.failure == fault.failure
    assert verdict.reason.startswith(f"step {fault.step} of 32: ")
    assert fault.leaf in verdict.reason
    loop = Verdict.from_dict(verdict.as_dict()).loop
    assert fault.step in (loop.teacher_forced, loop.free_running)


@pytest.mark.parametrize("name", [name for name in HEALTHY if name != "inside"])
def test_a_healthy_loop_passes_on_trace(name):
    verdict = looped(name)
    assert verdict.status == "passed", verdict.reason
    steps = min(32, *(len(how) + 1 for how in HEALTHY[name].feed.values() if not callable(how)), 32)
    assert verdict.calls["teacher-forced"] == verdict.calls["free-running"] == steps
    assert verdict.loop.teacher_forced is verdict.loop.free_running is None
    assert not verdict.ineffective


CASES = [(name, target) for target in ("export", "onnx") for name in HEALTHY]
FAST = [("empty cache", "export"), ("inside", "export"), ("gru", "onnx")]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(*case, marks=[] if case in FAST else [slow])
        for case in CASES
        if case != ("inside", "onnx")
    ],
)
def test_a_healthy_loop_passes(name, target):
    verdict = looped(name, target=target)
    assert verdict.status == "passed", verdict.reason


def test_a_state_in_the_module_is_not_followed_by_a_trace_and_by_a_file_without_state():
    moved_on = looped("inside")
    assert moved_on.failure == "StateDiffers"
    assert "exporting ran forward" in moved_on.reason
    without = looped("inside", target="onnx")
    assert without.failure == "StateDiffers"
    assert without.reason.startswith("step 2 of 32")


def test_in_a_process_of_its_own_a_loop_goes_on_from_step_to_step():
    for name in ("gru", "inside"):
        verdict = looped(name, target="export", isolate=True)
        assert (verdict.status, verdict.isolated) == ("passed", True)


# -- sizes -----------------------------------------------------------------------------------------


def test_a_cache_that_grows_is_a_dim_of_the_sizes_of_the_loop_and_a_mask_is_ahead_of_it():
    verdict = looped("mask", steps=6)
    assert verdict.reached["past_0_1"] == (4, 5, 6, 7, 8, 9)
    assert not any(name.startswith("mask") for name in verdict.reached)


def test_a_step_exported_at_one_size_alone_raises_at_the_next():
    frozen = looped("cache", target="export", shapes={"ids": "..."})
    assert frozen.failure == "SpecError"
    assert "the loop reaches sizes that dims= and shapes= leave out" in frozen.reason


# -- what only looks like a fault ------------------------------------------------------------------


def flipped(by):
    """Return an artifact that prefers the other one of two tokens, by so much."""
    step = Tied().eval()

    def artifact(ids, past):
        logits, made = step(ids, past)
        return logits + by * torch.nn.functional.one_hot(torch.tensor(5), logits.shape[-1]), made

    return artifact


def test_a_tie_goes_on_with_eagers_token_and_is_told():
    tie = looped("cache", step=Tied(), artifact=flipped(1e-6))
    assert tie.status == "passed", tie.reason
    assert tie.loop.ties == tuple(range(1, 32))
    (line,) = (line for line in tie.loop.lines() if "ties" in line)
    assert line.startswith("ties after step 1, 2, 3")
    worse = looped("cache", step=Tied(), artifact=flipped(1e-2))
    assert worse.failure == "OutputsDiffer"
    assert worse.reason.startswith("step 1 of 32: output[0]")
    assert not worse.loop.ties


def chaotic(artifact):
    start = torch.linspace(0.1, 0.8, 6)
    given = {"target": "trace", "carry": {"output": "x"}, "steps": 60, **OPTIONS}
    return check_loop(Chaos(), (start,), artifact=artifact, **given)


def test_a_chaotic_loop_passes_if_it_is_no_further_off_than_eager_from_itself():
    healthy = chaotic(lambda x: 3.9 * (x - x * x))
    assert healthy.status == "passed", healthy.reason
    assert any("eager's own rounding becomes as large" in text for text in healthy.cautions)
    faulty = chaotic(lambda x: 3.9001 * x * (1 - x))
    assert faulty.reason.startswith("step 1 of 60")


def test_tolerances_of_the_user_are_the_law():
    shifted = looped("gru", artifact=Shifted(2e-5))
    assert shifted.failure == "OutputsDiffer"
    assert looped("gru", artifact=Shifted(2e-5), rtol=0.0, atol=1e-2).status == "passed"
    assert looped("gru", artifact=Shifted(2e-5), rtol=0.0, atol=1e-6).failure == "OutputsDiffer"


class Shifted:
    """A healthy step, but for a number that is added to what it returns."""

    def __init__(self, by):
        self.step, self.by = Gru().eval(), by

    def __call__(self, x, h):
        return tuple(each + self.by for each in self.step(x, h))


# -- reports ---------------------------------------------------------------------------------------


def test_the_report_names_the_step_both_ways_and_the_worst_element():
    fault = FAULTS["cache cut at a length"]
    verdict = looped(fault.loop, artifact=fault.artifact())
    with pytest.raises(AssertionError, match=re.escape(verdict.reason)) as raised:
        raise_for_failure(verdict)
    text = str(raised.value)
    assert "teacher-forced (eager's inputs at each step): differs first at step 9 of 32" in text
    assert "free-running (its own state and outputs): differs first at step 9 of 32" in text
    assert "[1, 13, 8]" in text
    lines = {block.label: block.lines for block in details(looped("gru"))}
    assert [line.endswith("agrees of 32") for line in lines["loop"]] == [True, True]


def test_a_step_that_fails_alone_is_the_call_that_is_diagnosed():
    fault = FAULTS["cache cut at a length"]
    alone = looped(fault.loop, artifact=fault.artifact())
    assert alone.call == "ids=int64[1, 1] as recorded, " + ", ".join(
        f"past[{number}]=float32[1, 12, 8] as recorded" for number in range(4)
    )
    adds_up = looped("average", artifact=FAULTS["drift"].artifact())
    assert not adds_up.call
    assert any("what it is off adds up" in line for line in adds_up.details)


# -- what is wrong with the loop itself ------------------------------------------------------------

WRONG = {
    "output": ({"carry": {"output[2]": "h"}}, "carry: 'output[2]' is not in what the step returns"),
    "nearest": ({"carry": {"output[2]": "h"}}, "Did you mean 'output[1]'?"),
    "input": ({"carry": {"output[1]": "hh"}}, "'hh' is not in this call; legal: x, h"),
    "containers": ({"carry": {"output": "h"}}, "the next step would get h[0], h[1]"),
    "feed": ({"feed": {"output[0]": next_id}}, "feed: 'output[0]' is not in this call"),
    "raises": ({"feed": {"x": lambda out: out[5]}}, "feed: 'x': raised IndexError"),
    "shape": ({"feed": {"x": noise(2, 9)}}, "eager raises at step 2: RuntimeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_path_is_told_with_the_legal_ones(name):
    changed, words = WRONG[name]
    verdict = looped("gru", **changed)
    assert verdict.failure == "SpecError"
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"carry": {}, "feed": {}}, "a loop needs carry= or feed="),
        ({"carry": "output[1]"}, "carry: 'output[1]' is not a dict like"),
        ({"carry": {"output[1]": 3}}, "3 is not the path of an input"),
        ({"feed": {"x": 3}}, "3 is not a function of what the step returns"),
        ({"feed": {"x": noise(2, 8, count=3)}, "steps": 9}, "'x' has 3 values, and 9 steps need 8"),
        ({"steps": 1}, "a loop has at least 2"),
        ({"steps": "many"}, "steps: 'many' is not a whole number"),
    ],
)
def test_what_is_wrong_in_itself_is_told_before_anything_runs(changed, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        looped("gru", **changed)


def test_an_input_of_another_dtype_from_the_second_step_on_is_told():
    verdict = looped("average", feed={"x": lambda out: out[0].double()})
    assert verdict.failure == "SpecError"
    assert verdict.reason.startswith("step 2 gets x as float64[2, 3], and the first step as float3")


def test_zeros_given_twice_are_two_states():
    state = torch.zeros(2, 1, 8)
    row = HEALTHY["lstm"]
    args = (row.args[0], (state, state))
    assert looped("lstm", target="export", args=args).status == "passed"


def test_a_cache_whose_number_of_tensors_changes_is_no_step():
    verdict = looped("cache", carry={"output[1]": "past"}, args=(IDS, cache()[:3]))
    assert verdict.failure == "SpecError"


def test_options_that_a_loop_has_no_use_for_are_told():
    verdict = looped("gru", relations="twice", inputs=[(torch.ones(1),)])
    assert verdict.status == "passed"
    assert "inputs, relations: not used, the check is of a loop" in verdict.cautions


def test_a_function_that_draws_from_a_generator_of_its_own_is_refused():
    generator = torch.Generator().manual_seed(0)
    feed = {"x": lambda out: torch.rand(out[0].shape, generator=generator)}
    verdict = looped("average", feed=feed)
    assert verdict.failure == "SpecError"
    assert "feed: 'x': the function returns another value for the same output" in verdict.reason
    seeded = looped("average", feed={"x": lambda out: torch.rand_like(out[0])})
    assert seeded.status == "passed", seeded.reason
    unknown = looped("average", feed={"x": lambda out: torch.full_like(out[0], float("nan"))})
    assert unknown.failure is None, unknown.reason


def test_a_step_is_served_and_timed_as_other_artifacts():
    verdict = looped(
        "gru",
        serve_on=["onnxruntime>=1.17"],
        threads=2,
        max_slowdown=1000.0,
        checks=("parity", "round_trip"),
    )
    assert verdict.status == "passed", verdict.reason
    assert "not loaded by onnxruntime>=1.17" in verdict.notes[-1]
    assert verdict.latency
    assert "served" in verdict.seconds


def test_a_loop_that_carries_nothing_is_a_warning():
    verdict = looped("gru", carry={})
    assert verdict.status == "passed", verdict.reason
    assert [line for line in verdict.ineffective if line.startswith("nothing that a step returns")]
