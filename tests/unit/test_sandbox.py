"""sandbox/: what crosses to the clean process, and what may happen to it there."""

from __future__ import annotations

import math
import os

import pytest
import torch

from pytest_torchexport import sandbox
from pytest_torchexport.observe import Hung, Raised, Returned
from pytest_torchexport.sandbox import Died, NotLoaded, Request, run_clean, wire
from pytest_torchexport.spec.inputs import Call

# -- the wire --------------------------------------------------------------------------------------

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def across(value, tmp_path):
    wire.dump(value, tmp_path / "value")
    return wire.load(tmp_path / "value")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)], ids=str)
def test_tensors_of_every_dtype_cross(dtype, shape, tmp_path):
    numbers = torch.arange(math.prod(shape)).reshape(shape) % 2
    tensor = numbers.to(dtype)
    found = across(tensor, tmp_path)
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert found.tolist() == tensor.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(1).expand(4),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(6)[::2],
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(2, requires_grad=True),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        torch.tensor([2**63 - 1, -(2**63)]),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_unusual_tensors_cross(tensor, tmp_path):
    found = across(tensor, tmp_path)
    assert torch.equal(found.nan_to_num(7), tensor.detach().resolve_conj().nan_to_num(7))
    assert str(found.tolist()) == str(tensor.tolist())


def test_containers_and_scalars_cross(tmp_path):
    value = {
        "list": [1, 2.5, "text\nwith ümlaut", None, True],
        "tuple": (1, (2,), []),
        3: {"empty": {}},
        (1, 2): 1 + 2j,
        "big": 2**70,
        "odd": [math.inf, -math.inf],
        "tensors": [torch.ones(2), (torch.zeros(3), torch.empty(0))],
    }
    found = across(value, tmp_path)
    assert list(found) == list(value)
    assert [item.tolist() for item in found.pop("tensors")[1]] == [[0, 0, 0], []]
    value.pop("tensors")
    assert found == value
    assert type(found["tuple"][1]) is tuple
    assert math.isnan(across([math.nan], tmp_path)[0])


def test_tensors_that_were_loaded_can_be_written_to(tmp_path):
    first, second = across([torch.zeros(2), torch.zeros(2)], tmp_path)
    first += 1
    assert second.tolist() == [0, 0]


class Own:
    pass


@pytest.mark.parametrize(
    "value", [Own(), [Own()], {"a": Own()}, torch.eye(2).to_sparse(), {1, 2}, object]
)
def test_what_only_this_process_knows_does_not_cross(value, tmp_path):
    with pytest.raises(TypeError, match="cannot cross"):
        wire.dump(value, tmp_path / "value")


# -- the clean process -----------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path):
    """Load a file with a target of ``sandbox_targets`` in the clean process."""

    def run(target, text="1", *, limit=30.0, blocked=(), imports=(), call=None, runs=3):
        path = tmp_path / "artifact.txt"
        path.write_text(text)
        return run_clean(
            Request(
                target=f"sandbox_targets:{target}",
                path=path,
                device="cpu",
                call=call or Call((torch.zeros(2),)),
                seed=0,
                runs=runs,
                limit=limit,
                blocked=blocked,
                imports=imports,
            )
        )

    return run


@pytest.fixture(scope="module", autouse=True)
def _server_that_finds_the_targets():
    """The clean process sees no path of ours, so that its server is started with one on purpose."""
    import pathlib

    here = str(pathlib.Path(__file__).parent)
    monkeypatch = pytest.MonkeyPatch()
    original = sandbox.subprocess.Popen

    def popen(command, **options):
        code = command[-1].replace("import sys; ", f"import sys; sys.path.append({here!r}); ", 1)
        return original([*command[:-1], code], **options)

    close()
    monkeypatch.setattr(sandbox.subprocess, "Popen", popen)
    yield
    monkeypatch.undo()
    close()


def close():
    if sandbox._Server._one is not None:
        sandbox._Server._one.close()
        sandbox._Server._one = None


def test_an_artifact_runs_there_and_its_values_come_back(load):
    answer = load("ADD", "2.5", call=Call((torch.ones(2),), {"scale": 3}))
    assert len(answer) == 3
    for outcome in answer:
        assert isinstance(outcome, Returned)
        assert outcome.value["y"].tolist() == [3.5, 3.5]
        assert outcome.value["kwargs"] == {"scale": 3}


def test_state_within_one_load_is_kept_and_gone_with_the_next(load):
    first, again = load("COUNTS"), load("COUNTS")
    assert [item.value.tolist() for item in first] == [[1, 1], [2, 2], [3, 3]]
    assert [item.value.tolist() for item in again] == [[1, 1], [2, 2], [3, 3]]


def test_a_load_that_raises_is_not_loaded(load):
    answer = load("RAISES", "this")
    assert isinstance(answer, NotLoaded)
    assert str(answer.outcome) == "ValueError: cannot load this"


def test_a_call_that_raises_is_an_outcome(load):
    answer = load("CALL_RAISES")
    assert [str(item) for item in answer] == ["ValueError: cannot run"] * 3
    assert all(isinstance(item, Raised) for item in answer)


def test_a_crash_is_told_by_its_signal_and_its_last_words(load):
    answer = load("CRASH")
    assert isinstance(answer, Died)
    assert answer.reason == "killed by SIGSEGV"
    assert "last words of the artifact" in answer.output


def test_an_artifact_that_ends_its_interpreter_died(load):
    answer = load("EXITS")
    assert isinstance(answer, Died)
    assert "exit status" in answer.reason


@pytest.mark.parametrize("target", ["HANG", "HANG_IN_CALL"])
def test_a_load_or_call_that_does_not_return_is_hung(load, target):
    answer = load(target, limit=0.5)
    assert len(answer) == 1
    assert isinstance(answer[0], Hung)


def test_a_blocked_package_looks_as_if_it_were_not_installed(load):
    assert isinstance(load("IMPORTS", "wave"), list)
    answer = load("IMPORTS", "wave", blocked=("wave",))
    assert isinstance(answer, NotLoaded)
    assert str(answer.outcome) == "ModuleNotFoundError: No module named 'wave'"
    assert isinstance(load("IMPORTS", "wave"), list)


def test_a_blocked_package_is_blocked_with_all_that_is_below_it(load):
    answer = load("IMPORTS", "xmlrpc.client", blocked=("xmlrpc",))
    assert isinstance(answer, NotLoaded)
    assert "No module named" in str(answer.outcome)


def test_what_serving_imports_is_imported_first(load):
    answer = load("MODULES", "wave", imports=("wave",), runs=1)
    assert answer[0].value.tolist() == [1, 1]


def test_a_runtime_import_that_does_not_exist_is_not_loaded(load):
    answer = load("ADD", imports=("no_such_ops_library",))
    assert isinstance(answer, NotLoaded)
    assert "no_such_ops_library" in str(answer.outcome)


def test_the_test_session_is_not_known_there(load):
    answer = load("MODULES", "conftest test_sandbox specs", runs=1)
    assert answer[0].value.tolist() == [0, 0]


def test_nothing_of_the_users_environment_is_there(load, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    close()
    (outcome,) = load("ENVIRONMENT", runs=1)
    assert outcome.value["secret"] == ""
    assert outcome.value["home"] != os.path.expanduser("~")  # noqa: PTH111  # as a shell sees it


def test_a_value_that_cannot_come_back_is_told_and_does_not_crash(load):
    answer = load("OBJECT")
    text = str(answer)
    assert "cannot cross" in text or (isinstance(answer, Died) and "cannot cross" in answer.output)


def test_the_death_of_the_server_is_told_and_the_next_request_is_served(load):
    answer = load("KILLS_SERVER")
    assert isinstance(answer, Died)
    assert "the clean process" in answer.reason
    assert isinstance(load("ADD"), list)


def test_a_server_that_was_killed_between_requests_is_started_again(load):
    load("ADD")
    server = sandbox._Server._one
    server._process.kill()
    server._process.wait()
    assert isinstance(load("ADD"), list)
    assert sandbox._Server._one is not server


def test_the_server_leaves_no_files_and_no_process_behind(load):
    load("ADD")
    server = sandbox._Server._one
    home = server._home.name
    assert os.path.isdir(home)  # noqa: PTH112  # a plain path from a private attribute
    server.close()
    assert not os.path.isdir(home)  # noqa: PTH112  # see above
    assert server._process.poll() is not None
    server.close()
