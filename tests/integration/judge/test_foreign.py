"""judge/foreign.py: hostile files are contained and reported, healthy ones pass all checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from slow import slow
from torch import nn
from versions import CALL_DEPTH, INSTALLED, NEGATIVE_LATE

from pytest_torchexport import engine, targets
from pytest_torchexport.config import names
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.judge.foreign import foreign_file
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.sandbox import answers, kernel
from tests import hostile
from tests.hostile import MARKER, claimed, no_such_file, scripted, truncated

# What torch says of its own exporters is no news here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

X = torch.linspace(-1, 1, 12).reshape(4, 3)
B = torch.export.Dim("b")
LIMITS = {"memory_limit": 2500, "time_limit": 75.0, "max_examples": 2}


def judge(path, module, *args, target=None, **plan):
    """The verdict of the first target that takes such a file."""
    if target is None:
        suffix = Path(path).suffix
        target = next(t for t in names.BUILT_IN if suffix in targets.get(t).traits.suffixes)
    given = {**LIMITS, **plan}
    plan = Plan(
        target=target,
        device="cpu",
        root=given.pop("root", Path(__file__).parent),
        max_examples=given.pop("max_examples"),
        why_isolated="isolate=True" if given.pop("isolate", False) else "",
        options=given.pop("options", Options()),
        diagnoses=given.pop("diagnoses", True),
        settings=Settings(**given),
    )
    return engine.check_artifact(path, module, Call(args), plan)


def text(verdict):
    return failure_text(verdict)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 2).eval()


class Same(nn.Module):
    def forward(self, x):
        return x * 1.0


# -- hostile files ---------------------------------------------------------------------------------


def code_in_a_size(directory):
    """A ``.pt2`` in which a size is an expression that removes a file: torch evaluates it as Python."""
    path = directory / "model.pt2"

    class Flat(nn.Module):
        def forward(self, x):
            return torch.cat([x, x]).reshape(-1)

    torch.export.save(torch.export.export(Flat(), (X,), dynamic_shapes=({0: B},)), path)
    (directory / "victim").touch()
    program = hostile._entry(path, "models/model.json").decode()
    code = f"__import__('os').remove({str(directory / 'victim')!r}) or Integer(6)"
    attacked = re.sub(
        r'"expr_str": "Mul\(Integer\(6\)[^"]*"',
        lambda _: f'"expr_str": {json.dumps(code)}',
        program,
    )
    assert attacked != program
    return hostile._rewritten(path, {"models/model.json": attacked.encode()})


TRAPS = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors divide without a trap"
)
PICKLE = "the file holds a pickle that names __builtin__.eval: loading it would run code"
OUTSIDE = "outside its directory"
CUT = "the file is damaged, cut short or of another format"
NO_ONNX = "is no ONNX model"
UNREADABLE = "External initializer: weight"
MEMORY = "exhausted its memory limit of 2500 MB"
NESTED = (
    ("LoadFailed", "call depth 101 exceeds the maximum")
    if CALL_DEPTH.applies(INSTALLED)
    else ("ArtifactCrashed", "while it was loaded: it was killed by")
)
NEGATIVE = (
    "Tensor shape.Size() must be >= 0"
    if NEGATIVE_LATE.applies(INSTALLED)
    else "Out of bounds dimensions"
)
HOSTILE = [
    # Code.
    (hostile.pickle_in_sample_inputs, "LoadFailed", PICKLE),
    (hostile.pickle_in_weights, "LoadFailed", PICKLE),
    (hostile.pickle_in_constants, "LoadFailed", PICKLE),
    (hostile.pickled(pickle.dumps), "LoadFailed", CUT),
    (hostile.pickled(hostile.saved), "LoadFailed", "the archive is of another kind"),
    (hostile.pickle_in_torchscript, "LoadFailed", "Unknown type name '__builtin__.eval'"),
    (code_in_a_size, "LoadFailed", "__import__ ('os').remove"),
    # Paths.
    (hostile.traversal_pt, "LoadFailed", "an entry that is to be unpacked outside of it"),
    (hostile.traversal_pt2, "LoadFailed", "an entry that is to be unpacked outside of it"),
    (hostile.traversal_compiled_pt2, "LoadFailed", "the archive holds a compiled library"),
    (hostile.external_above, "LoadFailed", OUTSIDE),
    (hostile.external_absolute, "LoadFailed", OUTSIDE),
    (hostile.external_symlink, "LoadFailed", OUTSIDE),
    (hostile.external_symlinked_folder, "LoadFailed", OUTSIDE),
    (hostile.external_endless, "LoadFailed", OUTSIDE),
    (hostile.external_pipe, "LoadFailed", "is not beside it"),
    (hostile.external_missing, "LoadFailed", "is not beside it: move both files together"),
    (hostile.external_truncated, "LoadFailed", UNREADABLE),
    (hostile.external_offset_beyond, "LoadFailed", UNREADABLE),
    (hostile.external_length_negative, "LoadFailed", "Failed to parse value"),
    # No such file.
    *((truncated(hostile.healthy_pt, kept), "LoadFailed", CUT) for kept in (0.5, 0.999)),
    *((truncated(hostile.healthy_pt2, kept), "LoadFailed", CUT) for kept in (0.5, 0.999)),
    *((truncated(hostile.healthy_onnx, kept), "LoadFailed", NO_ONNX) for kept in (0.5, 0.999)),
    *(
        (no_such_file(what, suffix), "LoadFailed", words)
        for suffix in (".pt", ".pt2", ".onnx")
        for what, words in (
            *(("empty", CUT), ("text", CUT), ("folder", "is a directory")),
            *(("symlink loop", "a link that leads to no file"), ("pipe", "is no regular file")),
        )
    ),
    (claimed(2**40), "LoadFailed", "ShapeInferenceError"),
    (claimed(2**63 - 1, 2**63 - 1, 3), "LoadFailed", "Integer overflow"),  # 3 in 64 bits
    (claimed(-3), "LoadFailed", NEGATIVE),
    # Memory.
    (hostile.bomb_pt, "ArtifactCrashed", MEMORY),
    (hostile.bomb_pt2, "ArtifactCrashed", MEMORY),
    (hostile.boast_pt, "ArtifactCrashed", MEMORY),
    (scripted(hostile.AllocatesAtOnce), "ArtifactCrashed", MEMORY),
    (hostile.allocates_at_once_onnx, "ArtifactCrashed", MEMORY),
    # Signals.
    (hostile.nested_source, "ArtifactCrashed", "while it was loaded: it was killed by SIGSEGV"),
    (hostile.nested_functions_onnx, *NESTED),
    (scripted(hostile.ReadsBeyondTheEnd), "ArtifactCrashed", "it was killed by SIGSEGV"),
    pytest.param(
        scripted(hostile.DiesInTheLoad),
        "ArtifactCrashed",
        "while it was loaded: it was killed by",
        marks=TRAPS,
    ),
    pytest.param(
        hostile.divides_out_of_range_onnx, "ArtifactCrashed", "killed by SIGFPE", marks=TRAPS
    ),
]
HUNGRY = [
    pytest.param(scripted(hostile.AllocatesWithoutEnd), marks=slow),
    hostile.allocates_without_end_onnx,
]
ENDLESS = [
    (scripted(hostile.NeverLoads), "while it was loaded: no return within 2 s"),
    (scripted(hostile.NeverReturns), "no return within 2 s"),
    (scripted(hostile.WaitsForAChild), "no return within 2 s"),
    (hostile.never_returns_onnx, "no return within 2 s"),
]


def name(value):
    return getattr(value, "__name__", "")


@pytest.fixture
def contained(tmp_path, monkeypatch):
    """Judge a builder's file; what it could have reached is as it was, and the next file passes."""
    cwd, directory = tmp_path / "cwd", tmp_path / "files"
    for each in (cwd, directory):
        each.mkdir()
    monkeypatch.chdir(cwd)

    def seen():
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in tmp_path.rglob("*")
        }

    def go(build, **plan):
        path = build(directory)
        before = seen()
        module = Same() if path.suffix == ".onnx" else linear()
        verdict = judge(path, module, torch.ones(4, 3), **plan)
        assert seen() == before
        assert not list(tmp_path.rglob(MARKER))
        assert not any(Path(place, MARKER).exists() for place in (path.root, Path.home()))
        if verdict.failure != "LoadFailed":  # its process has ended: there is one for the next file
            after = tmp_path / "after"
            after.mkdir()
            assert judge(hostile.healthy_pt(after), linear(), X).status == "passed"
        return verdict

    return go


@pytest.mark.parametrize("build", HUNGRY, ids=name)
def test_what_eats_all_memory_bit_by_bit_comes_to_its_limit(contained, build):
    verdict = contained(build, memory_limit=800, diagnoses=False)
    assert verdict.failure == "ArtifactCrashed"
    assert "exhausted its memory limit of 800 MB" in verdict.reason


@pytest.mark.parametrize(("build", "failure", "words"), HOSTILE, ids=name)
def test_a_hostile_file_is_contained_and_its_fault_is_named(contained, build, failure, words):
    verdict = contained(build)
    assert (verdict.failure, words in text(verdict)) == (failure, True), text(verdict)


@pytest.mark.parametrize(("build", "words"), ENDLESS, ids=name)
def test_a_file_that_never_returns_costs_its_limit_once(contained, build, words, monkeypatch):
    monkeypatch.setattr(Plan, "call_limit", 2.0)
    verdict = contained(build)
    assert verdict.failure == "ArtifactHung"
    assert words in verdict.reason
    assert sum(verdict.calls.values()) == 0


def test_a_file_that_prints_without_end_is_ended(contained, monkeypatch):
    monkeypatch.setattr(Plan, "call_limit", 3.0)
    verdict = contained(scripted(hostile.PrintsWithoutEnd))
    assert verdict.failure in ("ArtifactHung", "ArtifactCrashed")  # whichever limit it meets first
    assert len(verdict.output) <= 2**13


def test_what_is_printed_in_the_load_is_no_answer(tmp_path):
    path = scripted(hostile.PrintsInTheLoad)(tmp_path)
    assert judge(path, hostile.PrintsInTheLoad(), X, target="script").status == "passed"


# -- the kernel's guard ----------------------------------------------------------------------------

ATTACKS = [
    "open(outside / 'new', 'w')",
    "open(victim, 'w')",
    "os.remove(victim)",
    "os.rename(victim, home / 'mine')",
    "(home / 'a').touch(); os.rename(home / 'a', victim)",
    "os.mkdir(outside / 'd')",
    "os.rmdir(outside / 'empty')",
    "os.link(victim, home / 'l')",
    "os.symlink('x', outside / 's')",
    "os.truncate(victim, 0)",
    "io.FileIO(victim, 'w')",
]
BY_DESCRIPTOR = [
    "os.remove('victim', dir_fd=there)",
    "os.rename('victim', home / 'mine', src_dir_fd=there)",
    "(home / 'a').touch(); os.rename(home / 'a', 'victim', dst_dir_fd=there)",
    "os.mkdir('d', dir_fd=there)",
    "os.rmdir('empty', dir_fd=there)",
    "os.link('victim', home / 'l', src_dir_fd=there)",
    "os.symlink('x', 's', dir_fd=there)",
    "shutil.rmtree(outside)",
    "shutil.rmtree('empty', dir_fd=there)",
    "os.chmod('victim', 0o777, dir_fd=there)",
    "os.symlink(victim, home / 's'); os.chmod(home / 's', 0o777)",
    "os.fchmod(os.open(victim, os.O_RDONLY), 0o777)",
    "os.setxattr(victim, 'user.a', b'1')",
    "sqlite3.connect(outside / 'new')",
    "sqlite3.connect(f'file:{outside}/new', uri=True)",
]
# Past every event of Python's.
NATIVE = [
    "libc.unlink(os.fsencode(victim))",
    "libc.creat(os.fsencode(victim), 0o600)",
    "libc.execl(b'/bin/true', b'true', None)",
]
SCRIPT = """
import ctypes, errno, io, os, shutil, sqlite3, sys
from pathlib import Path
from pytest_torchexport.sandbox import guard, kernel
libc = ctypes.CDLL(None)
{attacks}
for number in range({count}):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    home, outside = (Path(sys.argv[1], f"{{place}}{{number}}") for place in ("home", "outside"))
    victim = outside / "victim"
    there = os.open(outside, os.O_RDONLY)
    {guarded}
    open(os.devnull, "w").write("x")
    (home / "own").write_text("x"); os.rename(home / "own", home / "b"); os.remove(home / "b")
    try:
        result = globals()[f"attack{{number}}"]()
    except OSError as error:
        # Landlock's words are those of a link across file systems; what no file system has is nobody's work.
        result = -1 if error.errno in (None, errno.EACCES, errno.EPERM, errno.EXDEV) else error
    print("refused" if result == -1 else f"done: {{result}}", flush=True)
    os._exit(0)
"""


def said_to(tmp_path, guarded, *attacks):
    """What becomes of attacks, each in a fork of its own, that end in an expression: nothing changes outside."""
    for number in range(len(attacks)):
        outside = tmp_path / f"outside{number}"
        (tmp_path / f"home{number}").mkdir()
        (outside / "empty").mkdir(parents=True)
        (outside / "victim").write_text("precious")
        (outside / "victim").chmod(0o600)
    bodies = (
        "; ".join([*first, f"return {last}"]) for *first, last in (a.split("; ") for a in attacks)
    )
    functions = "\n".join(f"def attack{number}(): {body}" for number, body in enumerate(bodies))
    code = SCRIPT.format(attacks=functions, count=len(attacks), guarded=guarded)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    for outside in tmp_path.glob("outside*"):
        assert sorted(path.name for path in outside.iterdir()) == ["empty", "victim"]
        assert (outside / "victim").read_text() == "precious"
        assert not (outside / "victim").stat().st_mode & 0o77
    return dict(zip(attacks, (done.stdout + done.stderr).splitlines(), strict=True))


WITHOUT_THE_KERNEL = "guard.kernel.limit_files = lambda home, **_: False; "
BY_THE_KERNEL = "assert kernel.limit_files(home, trusted=False)"
from_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="what a descriptor leads to is read from /proc"
)
by_landlock = pytest.mark.skipif(
    kernel.landlock_version() < 1, reason="this kernel has no Landlock"
)


@pytest.mark.parametrize(
    ("guarded", "attacks"),
    [
        ("guard.forbid(home, trusted=True)", ATTACKS),
        ("guard.forbid(home, trusted=False)", ATTACKS),
        pytest.param(
            f"{WITHOUT_THE_KERNEL}assert not guard.forbid(home, trusted=False)[0]",
            [*ATTACKS, *BY_DESCRIPTOR],
            marks=from_proc,
        ),
        pytest.param(BY_THE_KERNEL, NATIVE, marks=by_landlock),
    ],
    ids=["own files", "files of others", "without the kernel", "native code"],
)
def test_code_changes_nothing_outside_its_directory(tmp_path, guarded, attacks):
    assert said_to(tmp_path, guarded, *attacks) == dict.fromkeys(attacks, "refused")


def test_a_kernel_that_knows_no_landlock_is_told(monkeypatch):
    monkeypatch.setattr(kernel, "_call", lambda *_: -1)
    assert not kernel.limit_files(Path("/"), trusted=True)


@pytest.mark.skipif(
    kernel.landlock_version() < kernel.SCOPE_SINCE, reason="signals are not confined"
)
def test_nor_does_native_code_signal_others(tmp_path):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    attack = f"libc.kill({victim.pid}, 9)"
    try:
        assert said_to(tmp_path, BY_THE_KERNEL, attack) == {attack: "refused"}
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


# -- healthy files ---------------------------------------------------------------------------------


def onnx_file(path, module, *args, names=("x",), dynamic=True):
    axes = {name: {0: "n"} for name in names} if dynamic else None
    torch.onnx.export(
        module.eval(), args, str(path), dynamo=False, input_names=list(names), dynamic_axes=axes
    )
    return path


def traced(path, module, *args):
    torch.jit.save(torch.jit.trace(module, args, check_trace=False), str(path))
    return path


def scripted_file(path, module):
    torch.jit.save(torch.jit.script(module), str(path))
    return path


def exported_file(path, module, *args, dynamic=True):
    shapes = tuple({0: B} for _ in args) if dynamic else None
    torch.export.save(torch.export.export(module, args, dynamic_shapes=shapes), path)
    return path


WRITERS = {
    "trace.pt": lambda path, module: traced(path, module, X),
    "script.pth": scripted_file,
    "program.pt2": lambda path, module: exported_file(path, module, X),
    "legacy.onnx": lambda path, module: onnx_file(path, module, X),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_healthy_file_passes_under_any_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = WRITERS[kind](tmp_path / f"a ünï {kind}", linear())
    verdict = judge(path.name, linear(), X)
    assert verdict.status == "passed", text(verdict)
    assert verdict.isolated
    assert verdict.calls["boundary"]


def test_a_file_is_judged_by_the_targets_that_it_belongs_to(tmp_path):
    path = WRITERS["trace.pt"](tmp_path / "model.pt", linear())
    assert judge(path, linear(), X, target="script").status == "passed"
    verdict = judge(path, linear(), X, target="export")
    assert verdict.status == "skipped"
    assert verdict.reason == "not applicable: a .pt file is judged by trace and script"


@pytest.mark.parametrize("links", [False, True], ids=["files", "links of a cache"])
def test_external_data_comes_along(tmp_path, links):
    whole = onnx.load(onnx_file(tmp_path / "whole.onnx", linear(), X))
    path, data = tmp_path / "model.onnx", tmp_path / "data/weights.bin"
    data.parent.mkdir()
    place = {"location": "data/weights.bin", "size_threshold": 0}
    onnx.save(whole, path, save_as_external_data=True, **place)
    for number, file in enumerate([path, data] if links else []):
        file.symlink_to(file.rename(tmp_path / f"blob{number}"))
    assert judge(path, linear(), X).status == "passed"


class Tensors(nn.Module):
    def forward(self, x):
        return x * 2, x.shape[0]


class WithSize(nn.Module):
    def forward(self, x):
        return {"twice": x * 2, "rows": x.shape[0], "name": "rows"}


def test_a_size_among_the_outputs_is_a_tensor_in_onnx(tmp_path):
    path = onnx_file(tmp_path / "model.onnx", Tensors(), X)
    assert len(onnx.load(path).graph.output) == 2
    verdict = judge(path, WithSize(), X)
    assert verdict.status == "passed", text(verdict)


# -- files that do not do what eager does ----------------------------------------------------------


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n += 1
        return x + self.n


class Stands(Counts):
    def forward(self, x):
        return x + self.n + 1


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, x + 1


class Less(nn.Module):
    def forward(self, a, b):
        return a - 2 * b


def test_state_over_calls_is_followed(tmp_path):
    scripted_file(tmp_path / "right.pt", Counts())
    exported_file(tmp_path / "right.pt2", Counts(), X)
    traced(tmp_path / "wrong.pt", Stands(), X)
    onnx_file(tmp_path / "wrong.onnx", Stands(), X)
    for path in sorted(tmp_path.iterdir()):
        verdict = judge(path, Counts(), X)
        expected = None if path.stem == "right" else "StateDiffers"
        assert verdict.failure == expected, text(verdict)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_frozen_batch_in_the_file_is_found(tmp_path, suffix):
    write = exported_file if suffix == ".pt2" else onnx_file
    path = write(tmp_path / f"model{suffix}", linear(), X, dynamic=False)
    verdict = judge(path, linear(), X)
    assert verdict.failure == "DimsNarrowed"
    assert "the program says batch == 4: the size is static in the file" in verdict.reason


def test_another_count_of_outputs_is_a_structure(tmp_path):
    verdict = judge(onnx_file(tmp_path / "model.onnx", Same(), X), Pair(), X)
    assert verdict.failure == "StructureDiffers"
    assert f"eager tuple of 2, {verdict.target} Tensor" in text(verdict)


def test_another_count_of_inputs_is_named(tmp_path):
    path = onnx_file(tmp_path / "one.onnx", Same(), X, names=("x",))
    verdict = judge(path, Less(), X, X)
    assert verdict.failure == "ArtifactRaised"
    assert "TypeError: the file takes 1 input (x), the call has 2 tensors" in verdict.reason
    assert "give its inputs the names of forward's parameters" in verdict.reason


# -- inputs by name --------------------------------------------------------------------------------


def file_of(names, module, call, shapes=None):
    """An ONNX file with these inputs, as the clean process tells of it."""
    subject = Subject.of(module)
    spec = build_spec(subject.signature(), [call], Options(), subject.annotations())
    found = {"names": names, "shapes": shapes or [None] * len(names)}
    path = Path(__file__)
    given = Returned(X, call), spec, subject.signature()
    made = foreign_file(path.with_suffix(".onnx"), "onnx", *given)
    return spec, dataclasses.replace(made, found=found)


@pytest.fixture
def any_path(monkeypatch):
    monkeypatch.setattr("pytest_torchexport.judge.foreign._look_at", lambda _: None)


class Flagged(nn.Module):
    def forward(self, a, b, times: int = 2):
        return a * times - b


A, C = torch.zeros(4, 3), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("names", "call", "expected"),
    [
        (["a", "b"], Call((A, C)), {"a": A, "b": C}),
        (["b", "a"], Call((A, C)), {"a": A, "b": C}),
        (["b", "a"], Call((A,), {"b": C}), {"a": A, "b": C}),
        (["b"], Call((A, C)), {"b": C}),
        (["input_1", "input_2"], Call((A, C)), {"input_1": A, "input_2": C}),
        (["b", "other"], Call((A, C)), {"b": C, "other": A}),
        (["times", "a", "b"], Call((A, C, 3)), {"times": 3, "a": A, "b": C}),
        (["times", "a", "b"], Call((A, C)), {"times": 2, "a": A, "b": C}),
        (["a", "b", "onnx::Mul_2"], Call((A, C, 3)), {"a": A, "b": C, "onnx::Mul_2": 3}),
        (["a", "b", "onnx::Mul_2"], Call((A, C)), {"a": A, "b": C, "onnx::Mul_2": 2}),
    ],
)
def test_inputs_go_by_name_and_the_rest_in_order(any_path, names, call, expected):
    _, file = file_of(names, Flagged(), call)
    packed = file.pack_inputs(call)
    assert packed.args == ()
    assert packed.kwargs.keys() == expected.keys()
    assert all(packed.kwargs[name] is value for name, value in expected.items())


def test_names_that_do_not_come_out_even(any_path):
    _, file = file_of(["p", "q", "r", "s"], Flagged(), Call((A, C)))
    with pytest.raises(
        TypeError, match=r"takes 4 inputs \(p, q, r, s\), the call has 2 tensors \(a, b\)"
    ):
        file.pack_inputs(Call((A, C)))
    assert file.facts.suspicions(file.spec, Call((A, C))) == ()


class Optional(nn.Module):
    def forward(self, a, b=None):
        return a if b is None else a - b


def test_an_argument_that_the_call_leaves_out_is_to_be_passed(any_path):
    _, file = file_of(["a", "b"], Optional(), Call((A,)))
    with pytest.raises(TypeError, match=r"the call has 1 tensor \(a\): pass b in the call too"):
        file.pack_inputs(Call((A,)))


class Numbers(nn.Module):
    def __init__(self, fault=0.0):
        super().__init__()
        self.fault = fault

    def forward(self, x, threshold: float = 0.5, times: int = 2, signed: bool = True):
        return torch.where(x > threshold, x, x * times) + signed * self.fault


@pytest.mark.parametrize(
    ("names", "given", "fault", "failure"),
    [
        (("x",), (), 0.0, None),
        (("x", "threshold", "times", "signed"), (0.25,), 0.0, None),
        (("x",), (0.25, 3), 0.5, "OutputsDiffer"),
    ],
)
def test_the_legacy_exporter_makes_inputs_of_numbers(tmp_path, names, given, fault, failure):
    path = tmp_path / "numbers.onnx"
    axes = {"x": {0: "n"}}
    torch.onnx.export(
        Numbers(fault), (X,), path, dynamo=False, input_names=list(names), dynamic_axes=axes
    )
    verdict = judge(path, Numbers(), X, *given, diagnoses=False)
    assert verdict.failure == failure, text(verdict)
    left_out = ["threshold is 0.5, forward's default", "times is 2, forward's default"]
    said = [str(item) for item in verdict.assumed]
    assert [line for line in left_out if line in said] == left_out[len(given) :]


def test_sizes_are_held_against_the_input_of_the_name(any_path):
    shapes = [[None, 3], [4, 3]]
    spec, file = file_of(["b", "a"], Flagged(), Call((A, C)), shapes)
    assert {suspicion.path for suspicion in file.facts.suspicions(spec, spec.example)} == {"a"}


# -- what is no artifact ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "target", "words"),
    [
        (
            lambda d: torch.save(linear(), d / "saved.pt"),
            "trace",
            "  remedy   write it with torch.jit.save",
        ),
        (lambda d: torch.save(linear().state_dict(), d / "sd.pt2"), "export", "torch.export.save"),
        (lambda d: traced(d / "a.pt2", linear(), X), "export", "the archive is of another kind"),
        (lambda d: traced(d / "a.onnx", linear(), X), "onnx", "a.onnx is no ONNX model"),
    ],
    ids=["module", "weights.pt2", "script.pt2", "script.onnx"],
)
def test_a_file_of_another_kind_is_told_with_the_next_step(tmp_path, write, target, words):
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    verdict = judge(path, linear(), X, target=target)
    assert verdict.failure == "LoadFailed"
    assert words in text(verdict)
    assert verdict.kept == str(path)  # where its owner put it


@pytest.mark.parametrize(
    ("given", "failure", "words"),
    [
        ("missing.pt", "LoadFailed", "there is no file"),
        ("model.bin", "SpecError", "'model.bin' is no artifact; legal: .pt, .pth, .pt2, .onnx"),
        (5, "SpecError", "5 is neither a path nor callable"),
        (b"model.pt", "SpecError", "b'model.pt' is neither a path nor callable"),
    ],
)
def test_what_is_no_file_is_told(given, failure, words):
    verdict = judge(given, linear(), X, target="trace")
    assert verdict.failure == failure
    assert f"check_artifact: {words}" in verdict.reason


def test_a_file_that_vanishes(tmp_path, monkeypatch):
    error = FileNotFoundError(2, "gone")
    path = WRITERS["trace.pt"](tmp_path / "model.pt", linear())

    def fails(source, copy):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", fails)
        verdict = judge(path, linear(), X)
    assert verdict.failure == "LoadFailed"
    assert str(error) in verdict.reason
    assert judge(path, linear(), X).status == "passed"


@pytest.mark.parametrize("location", ["a" * 300, "a\0b", ""])
def test_names_of_external_data_that_no_file_can_have(tmp_path, location):
    path = hostile._external(tmp_path, location)
    verdict = judge(path, Same(), X)
    assert verdict.failure == "LoadFailed"
    assert "wants data from" in verdict.reason


# -- what a process of its own says ----------------------------------------------------------------


class Sparse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).to_sparse()


def test_what_has_no_way_back_is_skipped_with_its_reason(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(Sparse()).save(str(path))
    verdict = judge(path, Sparse(), torch.eye(3))
    assert verdict.status == "skipped"
    assert "a torch.sparse_coo tensor of torch.float32 cannot be sent" in verdict.reason


def test_names_in_a_file_do_not_speak_to_the_terminal(tmp_path):
    evil = "\x1b[2Jall passed"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in (evil, "b")]
    graph = helper.make_graph(
        [helper.make_node("Add", [evil, "b"], ["y"])],
        "g",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    verdict = judge(path, Same(), torch.ones(2))
    said = "\n".join([verdict.reason, *verdict.details, *(d.actual for d in verdict.differences)])
    assert "all passed" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("found", [{"branches": {}}, {"branches": 3}, {"sizes": {"axes": 1}}])
def test_a_process_that_says_nonsense_of_its_file_is_told(tmp_path, monkeypatch, found):
    path = hostile.healthy_pt2(tmp_path)
    plain = answers.read

    def read(said, asked):
        answer = plain(said, asked)
        return dataclasses.replace(answer, found=found) if asked == "load" else answer

    monkeypatch.setattr(answers, "read", read)
    verdict = judge(path, linear(), X)
    assert verdict.failure == "LoadFailed"
    assert "malformed" in verdict.reason
