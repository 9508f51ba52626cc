"""checks/serving.py: the artifact on other devices, in C++, by other providers and interpreters."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from slow import slow
from torch import Tensor, nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.checks import serving
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import settings_from
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox import cpp, interpreter
from pytest_torchexport.sandbox.program import ProgramSession

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)


# -- devices ---------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(3)


@pytest.fixture
def second_device(monkeypatch):
    """Stand in for a GPU where there is none: a device of that name is the CPU, with a random stream of its own."""
    plain, judge_of = serving._outcome_on, Case.judge_of

    def on(case, device, call):
        other = dataclasses.replace(case.plan, seed=case.plan.seed + 1)
        return plain(dataclasses.replace(case, plan=other), "cpu", call)

    def on_cpu(case, *args):
        plan = dataclasses.replace(case.plan, device="cpu")
        return judge_of(dataclasses.replace(case, plan=plan), *args)

    monkeypatch.setattr(serving, "unusable_device", lambda _: None)
    monkeypatch.setattr(Case, "judge_of", on_cpu)
    monkeypatch.setattr(Reference, "on_device", lambda *args: args[2])
    monkeypatch.setattr(serving, "_outcome_on", on)


@pytest.mark.parametrize("module", [nn.Linear(3, 3), Noisy()])
def test_what_is_right_on_another_device_passes(second_device, module):
    verdict = served(module, torch.eye(3), serve_on=["cuda"], shapes={}, mode="train")
    assert verdict.status == "passed", (verdict.failure, verdict.reason, verdict.differences)


def test_what_is_wrong_on_another_device_fails(second_device, monkeypatch):
    plain = serving._outcome_on

    def on(case, device, call):
        outcome = plain(case, device, call)
        return dataclasses.replace(outcome, value=outcome.value + 1)

    monkeypatch.setattr(serving, "_outcome_on", on)
    verdict = served(nn.Linear(3, 2), serve_on=["cuda"])
    assert verdict.failure == "RoundTripDiffers"
    assert "loaded on cuda" in verdict.reason
    assert verdict.differences


# -- in C++ ----------------------------------------------------------------------------------------


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.norm, self.out = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, [3, 2, 4]).permute(2, 0, 3, 1, 4).unbind(0)
        found = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.norm(x + self.out(found.transpose(1, 2).flatten(2)))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.cells(x)


class Dicts(nn.Module):
    def forward(
        self, d: dict[str, Tensor], p: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        return {"y": d["a"] + p[0], "z": d["b"] * p[1]}, p[1]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.n.add_(1)
        return x * self.n


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(ids).mean(1), ids.cumsum(1)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.size(1) == 3, "not three columns"
        if bool(x.sum() > 0):
            return x.topk(2)[0]
        return -x[:, :2]


IN_CPP = {
    "cnn": (Cnn(), torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)),
    "transformer": (Transformer(), torch.linspace(-1, 1, 48).reshape(2, 3, 8)),
    "lstm": (Lstm(), torch.linspace(-1, 1, 24).reshape(2, 3, 4)),
    "dicts and tuples": (Dicts(), {"a": X, "b": X + 1}, (X, X * 2)),
    "counter": (Counter(), X),
    "integers": (Words(), torch.arange(10).reshape(2, 5)),
    "random": (Noisy(), X),
    "branches": (Rows(), X),
}


@pytest.fixture
def calls_in_cpp(in_cpp, monkeypatch):
    """The outcomes of all calls that were made in C++."""
    outcomes, plain = [], cpp.ProgramSession.run

    def run(*args, **options):
        found = plain(*args, **options)
        outcomes.append(found[0])
        return found

    monkeypatch.setattr(cpp.ProgramSession, "run", run)
    return outcomes


def in_cpp_too(module, *args, target="script", **options):
    options = {"max_examples": 1, "checks": ("parity", "round_trip"), **options}
    return check_export(module, args, target=target, serve_on=["cpp"], **options)


# A trace of the others is red: what Python decided, or changed, is in it.
@pytest.mark.parametrize(
    ("target", "name"),
    [
        *(pytest.param("script", name, marks=[slow] * (name != "lstm")) for name in IN_CPP),
        *(
            pytest.param("trace", name, marks=[slow] * (name != "dicts and tuples"))
            for name in IN_CPP
            if name not in {"counter", "branches"}
        ),
    ],
)
def test_a_healthy_file_gives_the_bits_of_eager_in_cpp(calls_in_cpp, target, name):
    verdict = in_cpp_too(*IN_CPP[name], target=target, rtol=0.0, atol=0.0)
    assert verdict.status == "passed", (verdict.failure, verdict.reason, verdict.details)
    assert not verdict.ineffective
    assert len(calls_in_cpp) >= 4  # the example three times, and at other sizes
    assert all(isinstance(outcome, Returned) for outcome in calls_in_cpp)
    assert not any("not compared" in note for note in verdict.notes)


def test_the_state_goes_on_from_call_to_call_in_cpp(calls_in_cpp):
    assert in_cpp_too(Counter(), X).status == "passed"
    assert [outcome.value[0, 0].item() for outcome in calls_in_cpp[:3]] == [-1, -2, -3]


class Library(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.only_in_python.double(x)


class Overridden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.frac(x) + 1


SERVED_IN_PYTHON = """
import warnings
import torch
LIBRARY = torch.library.Library({namespace!r}, {kind!r})
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    {define}
    LIBRARY.impl({name!r}, lambda x: x * 2, "CPU")
"""
DEFINED = SERVED_IN_PYTHON.format(
    namespace="only_in_python",
    kind="DEF",
    define="LIBRARY.define('double(Tensor x) -> Tensor')",
    name="double",
)
REPLACED = SERVED_IN_PYTHON.format(namespace="aten", kind="IMPL", define="pass", name="frac")


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Import a module of the user's, which serving in Python imports too."""
    libraries = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        libraries.append(importlib.import_module(name).LIBRARY)
        monkeypatch.delitem(sys.modules, name)
        return name

    yield write
    for library in libraries:
        library._destroy()


def test_an_operator_that_python_registers_is_missing_in_cpp_alone(calls_in_cpp, imported):
    served_with = [imported("torchexport_in_python", DEFINED)]
    plain = check_export(Library(), (X,), target="trace", runtime_imports=served_with)
    assert plain.status == "passed", plain.reason
    verdict = in_cpp_too(Library(), X, target="trace", runtime_imports=served_with)
    assert verdict.failure == "RoundTripDiffers"
    assert verdict.reason.startswith("loaded in C++: RuntimeError:")
    assert "Unknown builtin op: only_in_python::double" in verdict.reason
    assert verdict.details[0] == serving.AGREES.format("in Python")
    assert verdict.details[1].startswith("call: x=float32[2, 3]")
    assert verdict.details[-1] == serving.CPP_REMEDY


def test_numbers_that_only_python_changes_are_those_of_eager_in_python_alone(
    calls_in_cpp, imported
):
    served_with = [imported("torchexport_replaces", REPLACED)]
    plain = check_export(Overridden(), (X,), target="script", runtime_imports=served_with)
    assert plain.status == "passed", plain.reason
    verdict = in_cpp_too(Overridden(), X, runtime_imports=served_with)
    assert verdict.failure == "RoundTripDiffers"
    assert verdict.reason == "loaded in C++"
    assert serving.AGREES.format("in Python") in verdict.details
    assert {difference.kind for difference in verdict.differences} == {"values"}


def test_a_crash_in_cpp_is_told_with_its_signal(in_cpp, monkeypatch, tmp_path):
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\necho last words\nread line\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(cpp, "program", lambda: program)
    verdict = in_cpp_too(Doubled(), X)
    assert verdict.failure == "RoundTripDiffers"
    assert verdict.reason == "loaded in C++: it was killed by SIGABRT"
    assert verdict.output == "last words\n"
    assert serving.AGREES.format("in Python") in verdict.details


def test_what_differs_in_python_too_is_said_once_and_not_of_cpp(calls_in_cpp):
    verdict = in_cpp_too(*IN_CPP["branches"], target="trace", max_examples=10)
    assert verdict.failure == "OutputsDiffer"
    assert calls_in_cpp
    assert "C++" not in f"{verdict.reason} {verdict.details}"


@pytest.mark.parametrize("strict", [False, True])
def test_where_there_is_no_program_the_next_step_is_said(monkeypatch, strict):
    monkeypatch.setattr(cpp, "program", lambda: "no C++ compiler 'g++'; next step: install g++")
    options = {"strict": strict, "max_examples": 10}
    found = (
        in_cpp_too(nn.Linear(3, 2), X, **options),
        in_cpp_too(nn.Linear(3, 2), X, target="export", **options),
    )
    said = [
        "no C++ compiler 'g++'; next step: install",
        "of export; next step: leave cpp out of torchexport_serve_on",
    ]
    for verdict, words in zip(found, said, strict=True):
        assert "not loaded in C++, where it is to be served: " in verdict.ineffective[0]
        assert words in verdict.ineffective[0]
        assert verdict.failure == ("Ineffective" if strict else None)


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def served(module, x=X, **options):
    options = {"max_examples": 2, "checks": ("parity", "round_trip"), **options}
    return check_export(module, (x,), target="trace", **options)


@pytest.mark.parametrize("named", [True, False])
def test_a_default_target_without_a_program_in_cpp_is_a_note(named):
    plan = Plan(
        target="export",
        device="cpu",
        options=parse_check_options({"max_examples": 1}),
        settings=settings_from({"serve_on": ["cpp"]}),
        named=named,
    )
    verdict = engine.check(nn.ReLU(), [Call((torch.randn(2, 3),))], plan)
    told = [
        any("loads no files of export" in text for text in texts)
        for texts in (verdict.ineffective, verdict.notes)
    ]
    assert told == [named, not named], verdict


# -- by another execution provider -----------------------------------------------------------------

CPU_PROVIDER = "CPUExecutionProvider"


def by_provider(module, *args, target="onnx", provider=CPU_PROVIDER, **options):
    return check_export(module, args, target=target, serve_on=[provider], **options)


@pytest.fixture
def sessions(monkeypatch):
    """The sessions that an execution provider has the file in."""
    pytest.importorskip("onnxscript")
    opened, plain = [], serving.opened

    def keep(source, plan):
        opened.append(source)
        return plain(source, plan)

    monkeypatch.setattr(serving, "opened", keep)
    return opened


def test_a_file_is_served_by_the_execution_provider_of_that_name(sessions):
    verdict = by_provider(nn.Linear(3, 2).eval(), X)
    assert (verdict.status, verdict.ineffective) == ("passed", ()), verdict
    assert [source.options["provider"] for source in sessions] == [CPU_PROVIDER]


def test_what_differs_by_the_provider_alone_is_said_so(sessions, monkeypatch):
    from pytest_torchexport.sandbox.session import SandboxSession

    plain = SandboxSession.run

    def wrong(self, *args, **options):
        outcome, state = plain(self, *args, **options)
        if "provider" in self._source.options and isinstance(outcome, Returned):
            outcome = dataclasses.replace(outcome, value=[each + 1 for each in outcome.value])
        return outcome, state

    monkeypatch.setattr(SandboxSession, "run", wrong)
    verdict = by_provider(nn.Linear(3, 2).eval(), X)
    assert verdict.failure == "RoundTripDiffers", verdict
    assert verdict.reason == f"loaded by {CPU_PROVIDER}"
    assert serving.AGREES.format("on cpu") in verdict.details
    assert sessions


def test_a_provider_that_leaves_nodes_to_others_is_a_note(sessions):
    provider = "AzureExecutionProvider"  # which has no kernels, and is in each onnxruntime
    if serving.lacking(provider):
        pytest.skip(f"this onnxruntime has no {provider}")
    verdict = by_provider(nn.Linear(3, 2).eval(), X, provider=provider)
    assert verdict.status == "passed", verdict
    assert f"{provider} leaves a part of the file to others, as the CPU" in verdict.notes
    assert sessions


def test_tensorrt_gets_its_shapes_from_the_dims(sessions, monkeypatch):
    monkeypatch.setattr(serving, "lacking", lambda _provider: None)
    dims = {"shapes": {"input": "batch 3"}, "dims": {"batch": (1, 8)}}
    verdict = by_provider(nn.Linear(3, 2).eval(), X, provider="TensorrtExecutionProvider", **dims)
    assert verdict.failure == "RoundTripDiffers"  # there is none here
    (options,) = (source.options for source in sessions)
    assert options["trt_profile_min_shapes"] == "input:1x3"
    assert options["trt_profile_opt_shapes"] == f"input:{X.shape[0]}x3"
    assert options["trt_profile_max_shapes"] == "input:8x3"


@pytest.mark.parametrize(
    ("target", "provider", "words"),
    [
        ("onnx", "TensorrtExecutionProvider", "this onnxruntime has"),
        ("onnx", "TensorRTExecutionProvider", "knows no such name; legal: "),
        ("trace", CPU_PROVIDER, "ONNX Runtime loads no files of trace"),
    ],
)
def test_a_provider_that_is_missing_is_named_with_the_next_step(target, provider, words):
    if target == "onnx":
        pytest.importorskip("onnxscript")
    (weak,) = by_provider(nn.Linear(3, 2).eval(), X, target=target, provider=provider).ineffective
    assert f"not loaded by {provider}, where it is to be served" in weak
    assert words in weak


# -- in another environment ------------------------------------------------------------------------

HERE = sys.executable


def elsewhere(module, *args, target="onnx", on=(HERE,), **options):
    if target.startswith("onnx"):
        pytest.importorskip("onnxscript")
    options = {"max_examples": 1, "checks": ("parity", "round_trip"), **options}
    return check_export(module, args, target=target, serve_on=[*on], **options)


@pytest.fixture
def programs(monkeypatch):
    """The outcomes of all calls in another interpreter."""
    outcomes, plain = [], ProgramSession.run

    def run(*args, **options):
        found = plain(*args, **options)
        outcomes.append(found[0])
        return found

    monkeypatch.setattr(ProgramSession, "run", run)
    return outcomes


@pytest.fixture
def other_program(monkeypatch, tmp_path):
    """Have the interpreter run a changed program: it stands for another environment."""

    def change(*replaced):
        source = interpreter.PROGRAM.read_text()
        for old, new in replaced:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / "other.py"
        path.write_text(source)
        monkeypatch.setattr(interpreter, "PROGRAM", path)
        interpreter.versions.cache_clear()

    yield change
    interpreter.versions.cache_clear()


@pytest.mark.parametrize(
    ("target", "module", "args"),
    [
        ("onnx", Words().eval(), (torch.arange(10).reshape(2, 5),)),
        ("onnx_legacy", nn.Linear(3, 2).eval(), (X,)),
        pytest.param("script", Dicts(), ({"a": X, "b": X + 1}, (X, X * 2)), marks=slow),
        ("script", Counter(), (X,)),
        pytest.param("export", nn.Linear(3, 2).eval(), (X,), marks=slow),
    ],
    ids=["onnx", "onnx_legacy", "script", "state", "export"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_file_is_served_by_another_interpreter(programs, target, module, args):
    verdict = elsewhere(module, *args, target=target)
    assert (verdict.status, verdict.ineffective) == ("passed", ()), verdict
    assert len(programs) >= 4  # the example three times, and at other sizes
    assert all(isinstance(outcome, Returned) for outcome in programs)
    assert not any("not compared" in note for note in verdict.notes)


def test_the_program_needs_no_newer_python_than_it_says():
    source = interpreter.PROGRAM.read_text()
    assert "Python 3.8" in source
    ast.parse(source, feature_version=(3, 8))
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 8))


def test_what_differs_in_the_other_environment_alone_is_said_so(other_program):
    more = "*(each + 1 for each in session.run(None, feeds))"
    other_program(("*session.run(None, feeds)", more))
    verdict = elsewhere(nn.Linear(3, 2).eval(), X)
    assert verdict.failure == "RoundTripDiffers", verdict
    assert verdict.reason.startswith(f"loaded by {HERE} (python 3.")
    assert serving.AGREES.format("on cpu") in verdict.details
    assert verdict.differences


def test_a_crash_there_is_told_with_what_it_printed(other_program):
    dies = "print('last words', flush=True) or os.abort() or call(Path(name)"
    other_program(("call(Path(name)", dies))
    verdict = elsewhere(nn.Linear(3, 2).eval(), X)
    assert verdict.failure == "RoundTripDiffers", verdict
    assert "it was killed by SIGABRT" in verdict.reason
    assert "last words" in verdict.output


REFUSES = """\
    if ir_version(path) > 9:
        raise RuntimeError("Unsupported model IR version: 10, max supported IR version: 9")
    session ="""
OF_A_FILE = """\
def ir_version(path):
    import onnx
    return onnx.load(path).ir_version


def main("""


@pytest.mark.parametrize("on", ["interpreter", "versions"])
def test_a_file_that_is_too_new_is_red_with_the_lines_that_cure_it(other_program, on):
    if on == "interpreter":
        other_program(("    session =", REFUSES), ("def main(", OF_A_FILE))
    places = [HERE] if on == "interpreter" else ["onnxruntime>=1.17"]
    verdict = elsewhere(nn.Linear(3, 2).eval(), X, on=places)
    assert verdict.failure == "RoundTripDiffers", verdict
    newest = "IR version 10, and this runtime loads 9 at most"
    assert any(newest in each for each in verdict.details)
    assert on == "versions" or newest in verdict.reason
    marker, function = (
        each.removeprefix("remedy: ") for each in verdict.details if each.startswith("remedy: ")
    )
    assert marker.endswith("after_export=[older], with")
    names = {"onnx": importlib.import_module("onnx")}
    exec(function, names)
    cured = elsewhere(nn.Linear(3, 2).eval(), X, on=places, after_export=[names["older"]])
    assert cured.status == "passed", cured


@slow
def test_an_opset_that_is_too_new_is_cured_by_an_older_one():
    pytest.importorskip("onnxscript")
    places, newer = ["onnxruntime==1.20.1"], {"onnx": {"opset_version": 23}}
    verdict = elsewhere(nn.Linear(3, 2).eval(), X, on=places, export_options=newer)
    assert verdict.failure == "RoundTripDiffers", verdict
    (remedy,) = (each for each in verdict.details if each.startswith("remedy: "))
    written = re.search(r"export_options=(\{.*?\}\})", remedy)
    older = ast.literal_eval(written[1])
    cured = elsewhere(nn.Linear(3, 2).eval(), X, on=places, export_options=older)
    assert cured.status == "passed", cured


@pytest.mark.parametrize(
    ("on", "target", "weak", "words"),
    [
        ("envs/none/bin/python", "onnx", True, "there is no file"),
        pytest.param("/bin/false", "onnx", True, "it does not run serve.py", marks=slow),
        ("onnxruntime==99.0", "onnx", True, "is not known without it; next step: name the path"),
        pytest.param(
            "torch>=2.6", "export", True, "what it loads is not known without it", marks=slow
        ),
        pytest.param("torch>=2.6", "onnx", False, "torch loads no files of onnx", marks=slow),
        ("onnxruntime>=1.17", "trace", False, "onnxruntime loads no files of trace"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_environment_that_is_missing_is_said_with_the_next_step(on, target, weak, words):
    checks = ("round_trip",)
    verdict = elsewhere(nn.Linear(3, 2).eval(), X, target=target, on=[on], checks=checks)
    assert verdict.status == "passed"
    (told,) = verdict.ineffective if weak else verdict.notes
    assert told.startswith(f"not loaded by {on}, where it is to be served: ")
    assert words in told


def test_an_environment_without_the_runtime_names_the_command(other_program):
    other_program(('("onnxruntime", "torch")', '("numpy",)'))
    (weak,) = elsewhere(nn.Linear(3, 2).eval(), X).ineffective
    assert f"it has no onnxruntime; next step: {HERE} -m pip install onnxruntime" in weak


@pytest.mark.parametrize(
    ("prints", "found"),
    [
        ("1", "it prints 1 in place of versions"),
        ("hello", "it prints hello in place of versions"),
        ('welcome\n{"python": "3.9"}', {"python": "3.9"}),
    ],
)
def test_what_an_interpreter_prints_is_its_versions_or_is_shown(tmp_path, prints, found):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
    python.chmod(0o755)
    said = interpreter.versions(python)
    assert said.startswith(found) if isinstance(found, str) else said == found


# -- in environments of tox ------------------------------------------------------------------------

SERVING = os.environ.get("TORCHEXPORT_SERVING", "").split()


@pytest.mark.skipif(not SERVING, reason="environments to serve in are made by tox -e runtimes")
@pytest.mark.parametrize("python", SERVING or [""])
@pytest.mark.filterwarnings("ignore")
def test_environments_serve_or_say_the_cure(programs, python):
    """Each of the environments has another onnxruntime, and no torch."""
    found = interpreter.versions(Path(python))
    assert not isinstance(found, str), found
    assert "torch" not in found
    module, runtime = Transformer().eval(), found["onnxruntime"]
    verdict = elsewhere(module, IN_CPP["transformer"][1], on=[python])
    of_table = elsewhere(module, IN_CPP["transformer"][1], on=[f"onnxruntime=={runtime}"])
    assert of_table.failure == verdict.failure  # the table says what the environment does
    if verdict.failure is not None:
        *_, function = (each for each in verdict.details if each.startswith("remedy: "))
        names = {"onnx": importlib.import_module("onnx")}
        exec(function.removeprefix("remedy: "), names)
        older = [names["older"]]
        verdict = elsewhere(module, IN_CPP["transformer"][1], on=[python], after_export=older)
    assert (verdict.status, verdict.ineffective) == ("passed", ()), verdict
    assert any(isinstance(outcome, Returned) for outcome in programs)
