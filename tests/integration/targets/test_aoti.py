"""targets/aoti.py: what is faithful passes, and each difference has its owner and, if known, its reason."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import zipfile

import pytest
import torch
from slow import slow
from small_models import Counter, cnn, of
from specs import spec_of
from torch import nn

from pytest_torchexport import check_export, engine, targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.judge.foreign import foreign_file
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.testing import export_with

AOTI = targets.get("aoti")
MISSING = AOTI.unavailable("cpu")
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
DIMS = {"batch": (1, 8)}
KEYWORDS = {"b": "batch 8", "a": "batch 8"}


def compiles(test):
    """An item takes 5 to 13 seconds."""
    return slow(pytest.mark.skipif(MISSING is not None, reason=str(MISSING))(test))


class Keywords(nn.Module):
    def forward(self, x, *, a, b):
        x.add_(1)
        return {"difference": x - a, "all": [x, b]}


class Repeated(nn.Module):
    def forward(self, x, k: int):
        return x.repeat_interleave(k, 0)


def check(module, *args, shape="batch 8", **options):
    """Check a module of which the first argument has this shape."""
    first = next(iter(inspect.signature(module.forward).parameters))
    shapes = {first: shape, **options.pop("shapes", {})}
    dims = {**DIMS, **options.pop("dims", {})}
    return check_export(module, args, target="aoti", shapes=shapes, dims=dims, **options)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 4)).eval()


def looped(x):
    start = torch.tensor(0), x
    return torch.while_loop(lambda n, _: n < 5, lambda n, y: (n + 1, y * 1.5), start)[1]


@compiles
@pytest.mark.parametrize(
    ("module", "args", "options"),
    [
        (net(), (X,), {}),
        (cnn(), (IMAGE,), {"shape": "batch 3 9 9"}),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
            (X.reshape(2, 2, 8),),
            {"shape": "batch time 8", "dims": {"time": (1, 9)}},
        ),
        (of(lambda x: torch.cond(x.sum() > 0, torch.exp, torch.sin, (x,))), (X,), {}),
        (of(looped), (X,), {}),
        (Keywords(), (X,), {"kwargs": {"b": X * 2, "a": X + 1}, "shapes": KEYWORDS}),
        (Counter(64), (X,), {}),
        (of(lambda x: (x.half() * 100 + x.half()).sum(1)), (X,), {}),  # rounded once
        (of(lambda x: x * 2), (X[:1],), {}),
    ],
)
def test_what_is_faithful_passes(module, args, options):
    verdict = check(module, *args, **options)
    assert verdict.status == "passed", verdict
    assert verdict.reached["batch"] == tuple(range(1, 9))
    assert not [note for note in verdict.notes if "round trip" in note]


@compiles
@pytest.mark.parametrize(
    ("module", "x", "own", "others"),
    [
        (of(lambda x: x * torch.arange(8)), X, "contiguous", ["strided"]),
        (of(lambda x: x * torch.arange(8)), X.t().contiguous().t(), "strided", ["contiguous"]),
        (cnn(), IMAGE, "contiguous", ["strided", "channels_last"]),
    ],
)
def test_another_memory_layout_than_the_examples_is_a_note_that_names_it(module, x, own, others):
    verdict = check(module, x, shape=" ".join(["batch", *map(str, x.shape[1:])]))
    assert verdict.status == "passed", verdict
    strides = "laid out in memory by the strides"
    own = strides if own == "strided" else own
    notes = [text.partition(" is read as ")[2] for text in verdict.notes if " is read as " in text]
    assert [text.startswith(own) for text in notes] == [True] * len(others)
    for other, text in zip(others, notes, strict=True):
        assert f": a {other} one gives other results than eager, so copy it" in text


@compiles
@pytest.mark.parametrize(
    ("module", "args", "options", "failure", "words"),
    [
        (Counter(1), (X,), {}, "StateDiffers", "makes a constant of a buffer of one element"),
        (of(lambda x: (x, x.shape[0])), (X,), {}, "StructureDiffers", "returns a tensor"),
        (Repeated(), (X, 2), {"values": {"k": [2, 3]}}, "OutputsDiffer", "is a constant"),
        (of(nn.functional.dropout), (X,), {}, "OutputsDiffer", "dropout is active"),
        (of(lambda x: x + torch.rand_like(x)), (X,), {}, "OutputsDiffer", "draws random numbers"),
        (of(lambda x: x if x.sum() > 0 else -x), (X,), {}, "ExportRefused", "x.sum() > 0"),
        (
            nn.LSTM(8, 3, batch_first=True).eval(),
            (X[None],),
            {"shape": "1 batch 8"},
            "ExportRefused",
            "take batch only as 4",
        ),
        (
            net(),
            (X,),
            {"export_options": {"aoti": {"inductor_configs": {"nonsense": 1}}}},
            "ExportRefused",
            "nonsense",
        ),
    ],
)
def test_what_differs_has_its_reason(module, args, options, failure, words):
    verdict = check(module, *args, **options)
    assert verdict.failure == failure, verdict
    found = verdict.diagnosis
    said = [verdict.reason, *(cause.text for cause in found.causes), *(k.text for k in found.known)]
    assert words in "\n".join(said), said
    if found.owner == "translation":
        steps = [(stage.name, stage.agrees) for stage in found.stages]
        assert steps == [("eager", True), ("ExportedProgram", True), ("AOTInductor", False)]


@compiles
def test_random_numbers_are_torchs_if_that_is_asked_for():
    options = {"aoti": {"inductor_configs": {"fallback_random": True}}}
    verdict = check(of(lambda x: x + torch.rand_like(x)), X, export_options=options)
    assert verdict.status == "passed", verdict


@compiles
def test_the_script_of_a_failure_loads_the_package(tmp_path):
    module, keep = of(lambda x: x.exp() * 0), tmp_path / "kept"
    verdict = check_export(module, (torch.tensor(100.0),), target="aoti", keep=keep)
    assert verdict.failure == "OutputsDiffer", verdict
    script = keep / "reproduce.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, "The failure is there." in done.stdout) == (1, True), done


@compiles
def test_a_package_takes_the_threads_of_its_process(tmp_path):
    program = export_with(AOTI, nn.GELU(), Call((X,)))
    with zipfile.ZipFile(program.save(tmp_path)) as file:
        (kernel,) = (name for name in file.namelist() if name.endswith("kernel.cpp"))
        assert "#pragma omp parallel\n" in file.read(kernel).decode()


@compiles
def test_a_package_is_served_in_cpp(monkeypatch):
    options = {"kwargs": {"b": X * 2, "a": X + 1}, "shapes": KEYWORDS, "serve_on": ["cpp"]}
    verdict = check(Keywords(), X, **options)
    assert (verdict.status, verdict.ineffective) == ("passed", ()), verdict
    write = AOTI.traits.for_cpp

    def wrong(program, call, path):
        write(program, Call(call.tensors()[::-1]), path)

    traits = dataclasses.replace(AOTI.traits, for_cpp=wrong)
    monkeypatch.setattr(type(AOTI), "traits", traits)
    verdict = check(Keywords(), X, **options)
    assert verdict.failure == "RoundTripDiffers", verdict
    assert "loaded in C++" in verdict.reason


# -- files that somebody else made -----------------------------------------------------------------


def judged(path, target):
    spec = spec_of(lambda x: x, X)
    return foreign_file(path, target, Returned(X, Call((X,))), spec)


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"model/{name}", "")
    return path


LIBRARY, PROGRAM = "data/aotinductor/model/a.wrapper.so", "models/model.json"


def test_a_package_is_judged_by_aoti_and_a_program_by_export(tmp_path):
    package, program = archive(tmp_path / "a.pt2", LIBRARY), archive(tmp_path / "b.pt2", PROGRAM)
    assert judged(package, "export").reason == "a.pt2: judged by aoti"
    assert judged(program, "aoti").reason == "b.pt2: judged by export"
    assert judged(package, "aoti").program == package
    # A program beside a library is refused where it would be loaded, and so is no file at all.
    for path in (archive(tmp_path / "c.pt2", LIBRARY, PROGRAM), tmp_path / "d.pt2"):
        path.touch()
        assert judged(path, "export").program == path


def test_code_of_somebody_else_is_not_run(tmp_path):
    path = archive(tmp_path / "a.pt2", LIBRARY)
    plan = Plan(target="aoti", device="cpu", root=tmp_path)
    verdict = engine.check_artifact(path, net(), Call((X,)), plan)
    assert verdict.failure == "LoadFailed", verdict
    assert "holds a compiled library, which would run unseen" in verdict.reason


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"PATH": ""}, "no C++ compiler: install g++"), ({"CXX": "no-such-c++"}, "no-such-c++")],
)
def test_without_a_compiler_it_is_unavailable_with_the_next_step(monkeypatch, variables, reason):
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert reason in AOTI.unavailable("cpu")
    assert "on the CPU" in AOTI.unavailable("cuda")
