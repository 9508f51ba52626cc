"""results/two_steps.py: of reference= and steps=, which step of a pipeline a wrapper does otherwise, and that healthy ones pass.

The faults are those of public threads: a wrapper that resizes without antialias, a flag, a default.
"""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_torchexport import SpecError, check_export, engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import foreign
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.two_steps import in_two_steps

STEPS = ["preprocess", "model", "postprocess"]
IMAGE = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
# Of the first step nothing depends on the target: the quickest one is enough.
QUICK = {"checks": "parity", "max_examples": 1, "shapes": {"image": "..."}}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return F.gelu(self.norm(self.conv(x))).mean((2, 3))


MODEL = Model().eval()


class Pipeline:
    """A pipeline as it is in research code: no module, and with steps of its own."""

    def __init__(self, model=MODEL):
        self.model = model

    def resize(self, image):
        return F.interpolate(image, size=(6, 8), mode="bilinear", antialias=True)

    def pad(self, x):
        return F.pad(x, (0, 0, 1, 1), value=0.5)

    def preprocess(self, image):
        return (self.pad(self.resize(image)) - 0.45) / 0.225

    def postprocess(self, scores):
        return {"scores": scores.sigmoid(), "label": scores.argmax(-1)}

    def __call__(self, image):
        return self.postprocess(self.model(self.preprocess(image)))


class Wrapper(nn.Module):
    """The module that is exported: the same steps, written anew."""

    def __init__(self, model=None, **changed):
        super().__init__()
        self.model = model or MODEL
        for name, step in changed.items():
            setattr(self, name, step)

    def resize(self, image):
        return F.interpolate(image, size=(6, 8), mode="bilinear", antialias=True)

    def pad(self, x):
        rows = x.new_full((x.shape[0], 3, 1, 8), 0.5)
        return torch.cat([rows, x, rows], dim=2)

    def preprocess(self, image):
        return self.pad(self.resize(image)) * (1 / 0.225) - 0.45 / 0.225

    def postprocess(self, scores):
        return {"scores": 1 / (1 + (-scores).exp()), "label": scores.max(-1).indices}

    def forward(self, image):
        return self.postprocess(self.model(self.preprocess(image)))


class Scaled(nn.Module):
    def forward(self, x):
        return MODEL(x) * 1.001


class OtherDefault(nn.Module):
    def forward(self, x):
        return F.gelu(MODEL.norm(MODEL.conv(x)), approximate="tanh").mean((2, 3))


def resized(image, **how):
    return F.interpolate(image, size=(6, 8), **{"mode": "bilinear", "antialias": True, **how})


def padded(x, value=0.5):
    return F.pad(x, (0, 0, 1, 1), value=value)


FAULTS = {
    "no antialias": (Wrapper(resize=lambda x: resized(x, antialias=False)), "preprocess"),
    "nearest": (
        Wrapper(resize=lambda x: resized(x, mode="nearest", antialias=False)),
        "preprocess",
    ),
    "another default": (Wrapper(OtherDefault()), "model"),
    "another constant": (Wrapper(Scaled()), "model"),
    "normalized never": (Wrapper(preprocess=lambda x: padded(resized(x))), "preprocess"),
    "normalized twice": (
        Wrapper(preprocess=lambda x: ((padded(resized(x)) - 0.45) / 0.225 - 0.45) / 0.225),
        "preprocess",
    ),
    "padded with zeros": (Wrapper(pad=lambda x: padded(x, 0.0)), "preprocess"),
    "padded, then resized": (
        Wrapper(
            preprocess=lambda x: (
                (F.interpolate(padded(x), size=(8, 8), mode="bilinear", antialias=True) - 0.45)
                / 0.225
            )
        ),
        "preprocess",
    ),
    "no sigmoid": (
        Wrapper(postprocess=lambda x: {"scores": x, "label": x.argmax(-1)}),
        "postprocess",
    ),
    "half precision": (Wrapper(preprocess=lambda x: Pipeline().preprocess(x).half()), "preprocess"),
    "raises": (Wrapper(postprocess=lambda x: {"scores": x[9], "label": x}), "postprocess"),
}


# Without a tolerance of one's own the rounding of each step is measured, which takes a second.
MEASURED = ("another default", "another constant")


def judged(wrapper, *args, target="trace", **options):
    return check_export(wrapper, args, target=target, **{**QUICK, **options})


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrapper_that_does_not_follow_fails_and_the_step_is_named(name):
    wrapper, step = FAULTS[name]
    law = {} if name in MEASURED else {"rtol": 1e-4, "atol": 1e-4}
    verdict = judged(wrapper.eval(), IMAGE, reference=Pipeline(), steps=STEPS, **law)
    assert verdict.status == "failed", verdict.notes
    assert verdict.sides == ("Pipeline", "Wrapper")
    assert "Wrapper does not follow Pipeline" in verdict.reason
    cause = verdict.diagnosis.causes[0]
    assert (cause.kind, cause.text.partition(": ")[0]) == ("step", f"`{step}` differs")
    text = failure_text(verdict)
    assert "eager" not in text


@pytest.mark.parametrize(
    ("wrapper", "reference"),
    [
        (Wrapper(), Pipeline().__call__),
        (Wrapper(pad=padded), lambda picture, model=MODEL: Pipeline(model)(picture)),
        (Wrapper(nn.Sequential(MODEL, nn.Dropout(0.5))).train(), Pipeline()),
        (Model(), MODEL),
    ],
    ids=[
        "as a method",
        "of another name of its argument",
        "in training mode",
        "module",
    ],
)
def test_a_wrapper_that_follows_its_reference_passes(wrapper, reference):
    name = "image" if isinstance(wrapper, Wrapper) else "x"
    verdict = judged(wrapper, IMAGE, reference=reference, shapes={name: "batch 3 12 16"})
    assert verdict.status == "passed", failure_text(verdict)
    assert any(f" -> {verdict.subject}: agrees on " in note for note in verdict.notes)


def test_steps_that_agree_each_say_that_it_is_how_they_are_put_together():
    class Reference(Pipeline):
        def __call__(self, image):
            return self.model(self.pad(self.resize(image)))

    class Swapped(Wrapper):
        def forward(self, image):
            return self.model(self.resize(self.pad(image)))

    steps = ["resize", "pad", "model"]
    verdict = judged(Swapped(pad=padded).eval(), IMAGE, reference=Reference(), steps=steps)
    assert verdict.diagnosis.causes[0].text == (
        "`resize`, `pad` and `model` agree, each by itself: it is together that they differ"
    )


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2)).eval()


X = torch.ones(2, 3)


def test_the_artifact_that_does_not_follow_the_wrapper_is_the_second_step(tmp_path):
    torch.jit.trace(linear(1), X).save(tmp_path / "model.pt")
    options = parse_check_options({"reference": linear(0)[0]})
    plan = Plan(target="trace", device="cpu", max_examples=1, diagnoses=False, options=options)
    verdict = engine.check_artifact(tmp_path / "model.pt", linear(0), Call((X,)), plan)
    assert (verdict.failure, verdict.sides) == ("OutputsDiffer", ("Sequential", "trace"))
    assert re.fullmatch(
        r"Linear -> Sequential: agrees on \d+ calls; Sequential -> trace: fails", verdict.details[0]
    )
    assert "Sequential on trace-cpu: outputs differ from Sequential" in failure_text(verdict)


def test_the_first_step_runs_once_for_all_targets_of_a_test(monkeypatch):
    taken = []
    take = foreign.take_subject
    monkeypatch.setattr(
        foreign, "take_subject", lambda *a, **k: (taken.append(1), take(*a, **k))[1]
    )
    pipeline = Pipeline(linear(0))

    def reference(x):
        return pipeline.model(x)

    def statuses(*targets):
        given = {"reference": reference, "checks": "parity", "max_examples": 1, "diagnose": False}
        return [check_export(linear(0), (X,), target=each, **given).status for each in targets]

    assert statuses("trace", "script", "export") == ["passed"] * 3
    assert len(taken) == 1
    pipeline.model = linear(1)
    assert statuses("trace") == ["failed"]
    assert len(taken) == 2


def test_a_reference_that_raises_is_said_to_in_its_name():
    def original(image):
        raise ValueError("no eager image")

    verdict = judged(Wrapper().eval(), IMAGE, reference=original)
    assert verdict.failure == "SpecError"
    assert (
        verdict.reason
        == f"{original.__qualname__} raises on the example: ValueError: no eager image"
    )


def test_a_reference_that_returns_other_containers_differs_in_structure():
    verdict = judged(Wrapper().eval(), IMAGE, reference=lambda image: [MODEL(image)])
    assert verdict.failure == "StructureDiffers"
    assert verdict.differences[0].expected == "list of 1"


def test_a_step_that_one_of_them_lacks_is_an_error_with_the_legal_names():
    verdict = judged(Wrapper().eval(), IMAGE, reference=Pipeline(), steps=["preproc"])
    assert verdict.failure == "SpecError"
    assert verdict.reason == (
        "steps: Pipeline has no method 'preproc'; both have: model, pad, postprocess, preprocess, resize. "
        "Did you mean 'preprocess'?"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": 3}, "reference: 3 is not a module, a function or an object to call"),
        ({"reference": Pipeline}, "reference: .*Pipeline.* is not a module"),
        ({"steps": ["model"]}, "steps: names the steps of reference=..., which is not given"),
        ({"steps": [3], "reference": Pipeline()}, "steps: 3 is not the name of a method"),
    ],
)
def test_wrong_options_are_refused_with_what_is_legal(options, message):
    with pytest.raises(SpecError, match=message):
        judged(Wrapper(), IMAGE, **options)


def test_a_reference_that_cannot_be_judged_is_a_warning():
    first = check_export(Model(), (IMAGE,), target="trace", **{**QUICK, "shapes": {"x": "..."}})
    skipped = dataclasses.replace(first, status="skipped", reason="eager has no numbers")
    verdict = in_two_steps(skipped, first, "original")
    assert verdict.status == "passed"
    assert "original -> Model: was not judged" in verdict.notes
    assert "original -> Model: original has no numbers" in verdict.cautions
