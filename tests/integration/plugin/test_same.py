"""plugin/same.py: bugs of pipelines that people met in production, each beside its healthy kin.

The code is reconstructed from the thread that is named beside it. ``wrong`` switches its mistake on.
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from pytest_torchexport import (
    ArtifactRaised,
    Ineffective,
    NotRepeatable,
    OutputsDiffer,
    PipelineFailed,
    SpecError,
)
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.engine import check_export
from pytest_torchexport.plugin.same import same
from pytest_torchexport.results.text import raise_for_failure


class Detector(nn.Module):
    """Six numbers for each cell of eight by eight pixels, from an image in [0, 1]."""

    stride = 8
    threshold = 0.4
    mean = 0.5

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 6, 8, stride=8)
        torch.manual_seed(0)
        nn.init.uniform_(self.backbone.weight, -0.1, 0.1)

    def forward(self, x):
        return self.backbone(x).flatten(2).transpose(1, 2)


class WithSigmoid(Detector):
    """nanodet#478: scores leave the exported model through another function."""

    def forward(self, x):
        raw = super().forward(x)
        return raw.sigmoid() if torch.compiler.is_exporting() else raw


class Encoder(nn.Module):
    """The mean of a text's embeddings; ``mask`` leaves out padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(16, 4)

    def forward(self, ids, mask):
        weights = mask.unsqueeze(-1).float()
        return (self.embedding(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)


@dataclasses.dataclass
class Box:
    corners: list[float]
    label: str


def image(height=24, width=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def chw(picture):
    return picture.permute(2, 0, 1).float() / 255


def letterboxed(x, side=40):
    return pad(x, (0, side - x.shape[2], 0, side - x.shape[1]), value=0.5)


def boxes(raw, threshold):
    found = raw[0][raw[0][:, 4] > threshold]
    return [Box(row[:4].tolist(), "cat" if row[5] > 0 else "dog") for row in found]


def letterbox_by_type(served, wrong):  # ultralytics#26269
    x = chw(image())
    is_rectangle = wrong and isinstance(served, nn.Module)
    return boxes(served((x if is_rectangle else letterboxed(x))[None]), 0.1)


def stretched(served, wrong):  # pytorch#80133: the other runtime's example resizes
    x = chw(image())
    resized = interpolate(x[None], (40, 40), mode="bilinear")
    return served(resized if wrong and not isinstance(served, nn.Module) else letterboxed(x)[None])


def normalized_twice(served, wrong):  # openvino#11942
    x = letterboxed(chw(image())) - 0.5
    return served(((x - 0.5) if wrong and not hasattr(served, "backbone") else x)[None])


def never_normalized(served, wrong):  # onnx#1440: the mean is an attribute of the module
    mean = getattr(served, "mean", 0.0) if wrong else Detector.mean
    return served((letterboxed(chw(image())) - mean)[None])


def changed_default(served, wrong):  # super-gradients#1824, sleap-nn#672
    antialias = hasattr(served, "backbone") if wrong else True
    return served(
        interpolate(chw(image(48, 80))[None], (24, 40), mode="bilinear", antialias=antialias)
    )


def channels_swapped(served, wrong):
    x = letterboxed(chw(image()))
    return served((x.flip(0) if wrong and not isinstance(served, nn.Module) else x)[None]).numpy()


def memory_for_shape(served, wrong):  # an image of rows is taken for one of planes
    planes = image(40, 40).reshape(3, 40, 40).float() / 255
    is_wrong = wrong and not isinstance(served, nn.Module)
    return served((planes if is_wrong else chw(image(40, 40)))[None])


def less_precise(served, wrong):  # the input is sent in half precision
    x = letterboxed(chw(image()))[None]
    return served(x.half().float() if wrong and not isinstance(served, nn.Module) else x)


def padding_counted(served, wrong):  # YOLO-World#336
    ids = torch.tensor([[3, 5, 7, 0, 0, 0]])
    mask = torch.ones_like(ids) if wrong and not isinstance(served, nn.Module) else (ids > 0).long()
    return served(ids, mask)


def padded_then_resized(served, wrong):  # YOLO-World#336
    x = chw(image(12, 20))
    if wrong and not isinstance(served, nn.Module):
        return served(interpolate(letterboxed(x, 20)[None], (40, 40), mode="bilinear"))
    resized = interpolate(x[None], (24, 40), mode="bilinear")[0]
    return served(letterboxed(resized)[None])


def other_threshold(served, wrong):  # of a class that has the module's attributes only for .pt
    threshold = getattr(served, "threshold", 0.05) if wrong else 0.05
    return {"image": "1.png", "boxes": boxes(served(letterboxed(chw(image()))[None]), threshold)}


PIPELINES = {
    letterbox_by_type: (Detector, "preprocess: in call 1, inputs"),
    stretched: (Detector, "preprocess"),
    normalized_twice: (Detector, "preprocess"),
    never_normalized: (Detector, "preprocess"),
    changed_default: (Detector, "preprocess"),
    channels_swapped: (Detector, "preprocess"),
    memory_for_shape: (Detector, "preprocess"),
    less_precise: (Detector, "preprocess"),
    padding_counted: (Encoder, "preprocess"),
    padded_then_resized: (Detector, "preprocess"),
    other_threshold: (Detector, "postprocess"),
}


def run(build, model, *, file=False, target="export", settings=None, **options):
    plan = Plan(
        target=target,
        device="cpu",
        options=parse_options((), options),
        settings=settings or Settings(),
    )
    with torch.no_grad():
        verdict = same(build, model, plan, file=file)
    raise_for_failure(verdict)
    return verdict


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.__name__)
def test_a_bug_of_a_pipeline_is_found_and_its_step_is_named(pipeline):
    cls, step = PIPELINES[pipeline]
    # The file of one size refuses an image that is letterboxed otherwise.
    failure = ArtifactRaised if pipeline is letterbox_by_type else OutputsDiffer
    with pytest.raises(failure, match=f"step {step}"):
        run(lambda served: pipeline(served, wrong=True), cls().eval())
    assert run(lambda served: pipeline(served, wrong=False), cls().eval()).notes == ()


def test_another_answer_while_exported_is_a_step_of_the_model():
    with pytest.raises(OutputsDiffer, match="step model: in call 1, output: ") as caught:
        run(lambda served: boxes(served(chw(image())[None]), 0.45), WithSigmoid().eval())
    assert "result: eager list of " in str(caught.value)


def test_the_marker_alone_sees_no_bug_of_the_code_around_a_module():
    """The same modules pass their check: only ``same`` looks at what is around them."""
    x = letterboxed(chw(image()))[None]
    assert (
        check_export(
            Detector().eval(), (x,), target="export", max_examples=2, checks="parity"
        ).status
        == "passed"
    )


def test_the_path_of_the_file_is_given_and_the_path_of_a_difference_is_told():
    def build(served):
        x = chw(image())[None]
        if isinstance(served, nn.Module):
            return {"raw": served(x)[0].detach().numpy(), "name": "detector"}
        assert isinstance(served, Path)
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(served)
        (raw,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        raw[0, 3] += 0.1
        return {"raw": raw[0], "name": "detector"}

    with pytest.raises(OutputsDiffer, match=r"result\['raw'\]: 6 of 90 elements"):
        run(build, Detector().eval(), file=True, target="onnx")


def halved(path):
    program = torch.export.load(path)
    program.state_dict["backbone.weight"].mul_(0.5)
    torch.export.save(program, path)


@pytest.mark.parametrize("file", [False, True])
def test_after_export_changes_the_file_and_is_not_applied_in_memory(file):
    def build(served):
        loaded = torch.export.load(served).module() if isinstance(served, Path) else served
        return loaded(torch.ones(1, 3, 8, 8))

    if file:
        with pytest.raises(OutputsDiffer):
            run(build, Detector().eval(), file=True, after_export=halved)
        assert run(build, Detector().eval(), file=True, after_export=str).cautions == ()
    else:
        (caution,) = run(build, Detector().eval(), after_export=halved).cautions
        assert caution.startswith("after_export: not applied to the artifact that build gets")


def test_of_a_file_no_calls_are_known():
    with pytest.raises(PipelineFailed) as caught:
        run(lambda served: served(torch.ones(1, 3, 8, 8)), Detector().eval(), file=True)
    assert "step preprocess" not in str(caught.value)


class Attributes:
    """A result of a pipeline's own class, as detectors have."""

    def __init__(self, scores, names):
        self.scores, self.names = scores, names


@pytest.mark.parametrize(
    ("value", "other", "path"),
    [
        ((1, "cat"), (1, "dog"), r"result\[1\]: eager 'cat', export 'dog'"),
        ([0.5, 0.25], [0.5, 0.3], r"result\[1\]: 1 of 1 elements"),
        ([1, 2], [1, 2, 3], "result: eager list of 2, export list of 3"),
        ({"a": None}, {"b": None}, "result: eager dict with"),
        (np.arange(3.0), np.arange(3.0) + 1, "result: 3 of 3 elements"),
        (np.array(["a"]), np.array(["b"]), "result: eager ndarray"),
        (np.float32(1), np.float32(2), "result: 1 of 1 elements"),
        (Attributes([1.0], "a"), Attributes([2.0], "a"), r"result\['scores'\]\[0\]: "),
        (torch.ones(2), np.ones(2), "result: eager "),
    ],
)
def test_any_value_is_compared(value, other, path):
    def build(served):
        served(torch.ones(1, 3, 8, 8))
        return value if isinstance(served, nn.Module) else other

    with pytest.raises(OutputsDiffer, match=path):
        run(build, Detector().eval())


class Slots:
    __slots__ = ("__xy", "unset")

    def __init__(self, xy):
        self.__xy = xy


def test_objects_with_slots_are_compared_by_what_they_hold():
    def build(served, factor):
        raw = served(torch.ones(1, 3, 8, 8)).flatten()[:2]
        return [Slots((raw * (1 if isinstance(served, nn.Module) else factor)).tolist())]

    model = Detector().eval()
    assert run(lambda served: build(served, 1), model).cautions == ()
    with pytest.raises(OutputsDiffer, match=r"result\[0\]\['_Slots__xy'\]\[0\]: "):
        run(lambda served: build(served, 2), model)


def test_what_cannot_be_compared_is_a_caution():
    def build(served):
        return {"raw": served(torch.ones(1, 3, 8, 8)), "later": lambda: 1}

    (caution,) = run(build, Detector().eval()).cautions
    assert (
        caution == "result['later'] was not compared: a function has no `__eq__` and no attributes"
    )


@pytest.mark.parametrize("own", [random.random, np.random.rand, lambda: torch.rand(2)])
def test_random_numbers_begin_alike_in_each_run(own):
    def build(served):
        return served(torch.ones(1, 3, 8, 8)), own()

    assert run(build, Detector().eval()).notes == ()


@pytest.mark.parametrize(
    "own",
    [np.random.default_rng().normal, uuid.uuid4, count().__next__, [None, 1].pop],
    ids=["noise", "uuid", "count", "structure"],
)
def test_what_build_does_not_repeat_is_said_before_anything_is_compared(own):
    def build(served):
        raw = served(torch.ones(1, 3, 8, 8)).sum()
        return {"raw": float(raw) * (1 if isinstance(served, nn.Module) else 2), "own": own()}

    with pytest.raises(NotRepeatable, match=r"does not agree with itself: result\['own'\]"):
        run(build, Detector().eval())


def test_a_build_that_runs_once_is_not_repeatable():
    left = [1]

    def build(served):
        return served(torch.ones(1, 3, 8, 8)) * left.pop()

    with pytest.raises(NotRepeatable, match="second run raises IndexError"):
        run(build, Detector().eval())


@pytest.mark.parametrize("value", [None, [], {"a": None}, object()])
def test_a_result_in_which_nothing_can_differ_is_ineffective(value):
    def build(served):
        served(torch.ones(1, 3, 8, 8))
        return object() if type(value) is object else value

    (said,) = run(build, Detector().eval()).ineffective
    assert "in which nothing can differ" in said
    with pytest.raises(Ineffective, match="nothing can differ"):
        run(build, Detector().eval(), settings=Settings(strict=True))


@pytest.mark.parametrize("moved", [1, 2])
def test_a_length_that_rounding_decides_is_a_caution_and_another_length_a_failure(moved):
    """One score is beside its threshold: the artifact finds that box, or has one more missing."""
    x = letterboxed(chw(image()))[None]
    model = Detector().eval()
    with torch.no_grad():
        scores = model(x)[0, :, 4]
    cut = float(scores.sort().values[-5]) + 1e-7

    def build(served):
        raw = served(x)[0]
        if isinstance(served, nn.Module):
            return raw[raw[:, 4] > cut].tolist()
        return raw[raw[:, 4] > cut - 1e-6].tolist()[: 6 - moved]

    if moved == 1:
        (caution,) = run(build, model).cautions
        assert caution.startswith("result was not compared: its length or shape changes too")
        return
    with pytest.raises(OutputsDiffer):
        run(lambda served: build(served)[: None if isinstance(served, nn.Module) else 2], model)


def test_a_length_that_moves_excuses_no_number_in_a_result_of_the_same_length():
    x = letterboxed(chw(image()))[None]
    model = Detector().eval()
    with torch.no_grad():
        cut = float(model(x)[0, :, 4].sort().values[-5]) + 1e-7

    def build(served):
        raw = served(x)[0]
        return (raw[raw[:, 4] > cut] * (1 if isinstance(served, nn.Module) else 2)).tolist()

    with pytest.raises(OutputsDiffer, match=r"result\[0\]\[0\]"):
        run(build, model)


def test_a_generator_is_read():
    def build(served, last=0):
        for size in (2, 3, last or 4):
            yield served(torch.ones(1, 3, 8 * size, 8))

    model = Detector().eval()
    assert run(build, model).notes == ()
    with pytest.raises(OutputsDiffer, match="step preprocess: in call 3"):
        run(lambda served: build(served, 0 if isinstance(served, nn.Module) else 2), model)


def test_what_moves_with_rounding_is_a_note_and_with_a_tolerance_of_the_users_a_failure():
    """The artifact is a little off, and the pipeline multiplies that."""

    def build(served):
        raw = served(torch.ones(1, 3, 8, 8))
        off = 0.0 if isinstance(served, nn.Module) else 3e-6
        return {
            "scaled": (raw + off).double().numpy() * 1e3,
            "class": int((raw + off).mean() > cut),
        }

    model = Detector().eval()
    with torch.no_grad():
        cut = float(model(torch.ones(1, 3, 8, 8)).mean()) + 1e-6
    verdict = run(build, model)
    assert {each.path: each.cause for each in verdict.explained} == {
        "result['scaled']": "rounding",
        "result['class']": "tie",
    }
    assert len(verdict.notes) == 2
    with pytest.raises(OutputsDiffer):
        run(build, model, rtol=1e-6, atol=1e-6)


def test_code_that_needs_the_module_fails_by_its_own_exception():
    def build(served):
        return served(torch.ones(1, 3, served.stride, 8))

    with pytest.raises(PipelineFailed, match="AttributeError with the artifact") as caught:
        run(build, Detector().eval())
    assert "the artifact has no attribute 'stride': give its value to build" in str(caught.value)
    assert "object has no" not in str(caught.value)


def test_an_artifact_that_refuses_a_call_of_the_pipeline():
    def build(served):
        return served(torch.ones(1, 3 if isinstance(served, nn.Module) else 4, 8, 8))

    with pytest.raises(ArtifactRaised, match="build raises"):
        run(build, Detector().eval())


def test_sizes_are_those_of_all_calls():
    def build(served):
        return [served(torch.ones(1, 3, 8 * size, 8)) for size in range(2, 16)]

    assert run(build, Detector().eval()).status == "passed"


def test_what_cannot_be_compared_is_said():
    model = Detector().eval()
    with pytest.raises(Ineffective, match="does not call the module"):
        run(lambda _: 1, model)
    with pytest.raises(SpecError, match="calls the module in 2 ways"):
        run(lambda served: (served(torch.ones(1, 3, 8, 8)), served(torch.ones(3, 8, 8))), model)

    def endless(served):
        value = [served(torch.ones(1, 3, 8, 8))]
        value.append(value)
        return value

    with pytest.raises(SpecError, match="build returns a list that contains itself"):
        run(endless, model)
    with pytest.raises(SpecError, match="int is no torch"):
        run(lambda _: 1, 1)
    with pytest.raises(ZeroDivisionError):
        run(lambda _: 1 / 0, model)


class Counting(nn.Module):
    """Counts its calls in a buffer, and drops out in training mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.drop = nn.Dropout()

    def forward(self, x):
        self.calls += 1
        return self.drop(x) * self.calls


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_and_the_random_numbers_are_as_they_were(fails):
    model, state = Counting(), torch.get_rng_state()

    def build(served):
        assert not fails or isinstance(served, nn.Module)
        return served(torch.ones(2, 3)) + torch.rand(2, 3)

    if fails:
        with pytest.raises(PipelineFailed):
            run(build, model)
    else:
        run(build, model)
    assert model.training
    assert model.drop.training
    assert model.calls.item() == 0
    assert "forward" not in vars(model)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_that_samples_is_active_on_both_sides():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    x = torch.ones(8, 3)
    assert run(lambda model: model(x), net, mode="sampling").status == "passed"
    assert net.training
