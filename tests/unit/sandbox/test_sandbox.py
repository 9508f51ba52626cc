"""sandbox/: what crosses to the clean process, and what may happen to it there."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.messages import printable
from pytest_torchexport.outcomes.observe import Crashed, NotTransferable, Raised, Returned, TimedOut
from pytest_torchexport.sandbox import answers, arrays, guard, landlock, process, tensors, wire
from pytest_torchexport.sandbox.process import ONNXRUNTIME, TORCH, Server, ServerUnavailable
from pytest_torchexport.sandbox.session import Session, Source

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


def across(value, codec=tensors.CODEC, other=tensors.CODEC):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, wire.packed(value, codec))
        return wire.receive(theirs, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)], ids=str)
def test_tensors_of_every_dtype_cross(dtype, shape):
    numbers = torch.arange(math.prod(shape)).reshape(shape) % 2
    tensor = numbers.to(dtype)
    found = across(tensor)
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
def test_unusual_tensors_cross(tensor):
    found = across(tensor)
    assert torch.equal(found.nan_to_num(7), tensor.detach().resolve_conj().nan_to_num(7))
    assert str(found.tolist()) == str(tensor.tolist())


def test_containers_and_scalars_cross():
    value = {
        "list": [1, 2.5, "text\nwith ümlaut", None, True],
        "tuple": (1, (2,), []),
        3: {"empty": {}},
        (1, 2): 1 + 2j,
        "big": 2**70,
        "odd": [math.inf, -math.inf],
        "tensors": [torch.ones(2), (torch.zeros(3), torch.empty(0))],
    }
    found = across(value)
    assert list(found) == list(value)
    assert [item.tolist() for item in found.pop("tensors")[1]] == [[0, 0, 0], []]
    value.pop("tensors")
    assert found == value
    assert type(found["tuple"][1]) is tuple
    assert math.isnan(across([math.nan])[0])


def test_tensors_that_were_loaded_can_be_written_to():
    first, second = across([torch.zeros(2), torch.zeros(2)])
    first += 1
    assert second.tolist() == [0, 0]


class Own:
    pass


@dataclass
class Named:
    left: torch.Tensor
    right: list


torch.export.register_dataclass(Named, serialized_type_name="test_sandbox.Named")


def test_what_is_registered_by_name_crosses_between_those_who_know_it():
    found = across([Named(torch.ones(2), [torch.zeros(1), 3])])[0]
    assert type(found) is Named
    assert found.left.tolist() == [1, 1]
    assert found.right[1] == 3


@pytest.mark.parametrize("codec", [tensors.STRICT, arrays.CODEC])
def test_what_is_registered_does_not_cross_to_those_who_do_not(codec):
    with pytest.raises(wire.OwnClass):
        across([Named(torch.ones(2), [])], other=codec)


@pytest.mark.parametrize("value", [Own(), [Own()], {"a": Own()}])
def test_what_only_this_process_knows_does_not_cross(value):
    with pytest.raises(
        wire.OwnClass, match="cannot cross to a process that does not know the class"
    ):
        across(value)


@pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), {1, 2}, object, slice(3), range(3)])
def test_what_others_know_and_frames_do_not_have_is_our_gap(value):
    with pytest.raises(wire.NotCarried, match="cannot cross to another process"):
        across(value)


@pytest.mark.parametrize(
    "value",
    [
        torch.float16,
        torch.bool,
        torch.strided,
        torch.channels_last,
        torch.device("cuda:1"),
        b"\x00\xff",
    ],
    ids=str,
)
def test_what_torch_has_by_name_crosses(value):
    assert across([value]) == [value]


def frame(header, data=b"", *, claimed=None):
    """A frame as it should be counted."""
    size = len(data) if claimed is None else claimed
    return len(header).to_bytes(8) + size.to_bytes(8) + header + data


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (frame(b"nope"), "JSONDecodeError"),
        (frame(b"[]"), "AttributeError"),
        (frame(b"{}"), "not enough values"),
        (frame(b'{"other": [1, 2]}'), "a kind of value that there is not"),
        (frame(b'{"anything": []}'), "a kind of value that there is not"),
        (frame(b'{"value": [1]}'), "a kind of value that there is not"),
        (frame(b'{"value": 1}', b"1234"), "4 bytes that are nobody's"),
        (frame(b'{"complex": [1' + b"0" * 400 + b", 0]}"), "OverflowError"),
        (frame(b'{"dict": [[{"list": []}, {"value": 1}]]}'), "unhashable"),
        (frame(b'{"list": [' * 50_000), "Error"),
        (frame(b'{"tensor": ["float32", [225], 900]}', b"1234"), "a tensor outside its frame"),
        (frame(b'{"tensor": ["float32", [1], -4]}', b"1234"), "a tensor outside its frame"),
        (frame(b'{"tensor": ["float32", [2], 4]}', b"1234"), "4 bytes are no float32"),
        (frame(b'{"tensor": ["__name__", [1], 4]}', b"1234"), "no dtype of torch"),
        (frame(b'{"tensor": ["onnx", [1], 4]}', b"1234"), "no dtype of torch"),
        (frame(b'{"tensor": ["float32", [-1], 4]}', b"1234"), "no dtype and shape"),
        (frame(b'{"tensor": ["float32", [0, -1], 0]}'), "no dtype and shape"),
        (frame(b'{"tensor": ["float32", [0, 9223372036854775808], 0]}'), "Error"),
        (frame(b'{"tensor": ["qint8", [4], 4]}', b"1234"), "no dtype of torch"),
        (frame(b'{"node": ["by name: nothing", []]}'), "nothing of torch's"),
        (b"\xff" * 16, "a frame of"),
        ((2**24 + 1).to_bytes(8) + bytes(8), "a frame of"),
    ],
    ids=lambda item: item[16:60].decode(errors="replace") if isinstance(item, bytes) else "",
)
@pytest.mark.parametrize("codec", [tensors.CODEC, tensors.STRICT], ids=["own", "strict"])
def test_bytes_that_are_no_frame_are_told(frame, said, codec):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=_all_of, args=(ours, frame)).start()
        with pytest.raises(wire.Malformed, match=said):
            wire.receive(theirs, codec)


def _all_of(channel, data):
    with contextlib.suppress(OSError):
        channel.sendall(data)


def test_a_frame_that_ends_too_early_is_told():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frame(b'{"value": 1}')[:-1])
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            wire.receive(theirs, tensors.CODEC)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
def test_what_a_frame_claims_is_not_had_before_it_comes():
    code = """
import resource, socket
from pytest_torchexport.sandbox import arrays, wire
ours, theirs = socket.socketpair()
ours.sendall((2).to_bytes(8) + (2**33).to_bytes(8) + b"{}" + b"1234")
ours.shutdown(socket.SHUT_WR)
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
try:
    wire.receive(theirs, arrays.CODEC)
except EOFError:
    print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(process.__file__).parents[2],
    )
    assert done.stdout == "fine\n", done.stderr


def test_more_containers_than_are_believed_are_not_sent():
    with pytest.raises(wire.NotCarried, match="cannot cross"):
        wire.packed([0] * 2**21, tensors.CODEC)


def test_containers_deeper_than_python_follows_are_not_sent():
    deep = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    with pytest.raises(wire.NotCarried, match="cannot cross"):
        wire.packed(deep, tensors.CODEC)


def test_where_sockets_are_forbidden_the_next_step_is_told(monkeypatch):
    def forbidden(*kind):
        raise RuntimeError("A test tried to use socket.socket.")  # as pytest-socket does

    monkeypatch.setattr(socket, "socketpair", forbidden)
    with pytest.raises(
        ServerUnavailable, match=r"tried to use socket\.socket.*--allow-unix-socket"
    ):
        Server(TORCH)


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("load", None),
        ("load", []),
        ("load", {}),
        ("load", {"returned": 1, "state": {}}),
        ("load", {"found": [], "confined": True}),
        ("load", {"found": {1: 2}, "confined": True}),
        ("load", {"raised": "text"}),
        ("load", {"raised": ["one", "two"]}),
        ("load", {"raised": ["one", "two", None]}),
        ("load", {"exhausted": 3}),
        ("run", {"returned": 1}),
        ("run", {"returned": 1, "state": {"weight": 3}}),
        ("run", {"returned": 1, "state": {}, "inputs": [1]}),
        ("run", {"returned": 1, "state": {}, "inputs": [[], {1: 2}]}),
        ("run", {"returned": 1, "state": {}, "inputs": [{}, {}]}),
        ("look", {"found": {}}),
    ],
)
def test_what_is_no_answer_is_told(asked, said):
    with pytest.raises(wire.Malformed):
        answers.read(said, asked)


def test_what_an_artifact_says_cannot_steer_a_terminal():
    said = "\x1b[2J\x1b[1;1Hall\ttests\rpassed\r\n\u202eümlaut ✓\x00\x9b1m"
    assert printable(said) == "�[2J�[1;1Hall\ttests\npassed\n�ümlaut ✓��1m"
    raised = answers.read({"raised": [said, said, said]}, "run").raised
    assert "\x1b" not in f"{raised}{raised.where}"


def test_a_frame_of_more_data_than_allowed_is_not_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, wire.packed(torch.zeros(1000), tensors.CODEC))
        with pytest.raises(wire.Malformed, match="4000 bytes"):
            wire.receive(theirs, tensors.CODEC, most=3999)


def test_a_frame_that_comes_in_drops_is_late():
    ours, theirs = socket.socketpair()
    frame = (1000).to_bytes(8) + bytes(8)

    def drip():
        with contextlib.suppress(OSError):
            for byte in frame * 100:
                ours.sendall(bytes([byte]))
                time.sleep(0.01)

    with ours, theirs:
        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(TimeoutError):
            wire.receive(theirs, tensors.CODEC, seconds=0.2)


def test_the_other_side_may_have_no_torch():
    found = across([torch.tensor([[1.5, 2]], dtype=torch.bfloat16)], other=arrays.CODEC)
    assert (found[0].dtype, found[0].shape, len(found[0].data)) == ("bfloat16", (1, 2), 4)
    assert across(found, arrays.CODEC)[0].tolist() == [[1.5, 2]]


where_it_forks = pytest.mark.skipif(
    not process.FORKS, reason="children of a server exist only where it forks"
)

# -- the clean process -----------------------------------------------------------------------------

MEMORY = 2048


def source(tmp_path, target, text="1", **options):
    path = tmp_path / "artifact.txt"
    path.write_text(text)
    options = {"blocked": (), "imports": (), "memory": MEMORY, **options}
    return Source(
        loader=f"sandbox_targets:{target}", path=path, home=tmp_path, device="cpu", **options
    )


@pytest.fixture
def load(tmp_path):
    """A session on a file with a target of ``sandbox_targets``; ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda target, text="1", *, limit=60.0, **options: stack.enter_context(
            Session(source(tmp_path, target, text, **options), limit)
        )


def run(session, call=None, *, limit=60.0, **options):
    outcome, _ = session.run(call or Call((torch.zeros(2),)), seed=0, limit=limit, **options)
    return outcome


@pytest.fixture(scope="module", autouse=True)
def _servers_that_find_the_targets():
    """The clean process sees no path of ours, so that its server is started with one on purpose."""
    here = str(pathlib.Path(__file__).parent)
    monkeypatch = pytest.MonkeyPatch()
    original = process.subprocess.Popen

    def popen(command, **options):
        if "-I" not in command:
            return original(command, **options)
        code = command[-1].replace("sys; ", f"sys; sys.path.append({here!r}); ", 1)
        return original([*command[:-1], code], **options)

    close()
    monkeypatch.setattr(process.subprocess, "Popen", popen)
    yield
    monkeypatch.undo()
    close()


@pytest.fixture(params=[True, False], ids=["fork", "no fork"])
def ways(request, monkeypatch):
    """Both ways to have a process: a child of the server's, and an interpreter of its own."""
    if request.param and not process.FORKS:
        pytest.skip("this system does not fork safely")
    if not request.param:
        monkeypatch.setattr(process, "FORKS", False)
        monkeypatch.setattr(Server, "_shared", {})
    yield
    if not request.param:
        close()


def close():
    for server in list(Server._shared.values()):
        server.close()
    Server._shared.clear()


def test_an_artifact_runs_there_and_its_values_come_back(ways, load):
    session = load("ADD", "2.5")
    for _ in range(3):
        outcome = run(session, Call((torch.ones(2),), {"scale": 3}))
        assert isinstance(outcome, Returned), outcome
        assert outcome.value["y"].tolist() == [3.5, 3.5]
        assert outcome.value["kwargs"] == {"scale": 3}


def test_each_load_is_fresh(load):
    first, second = load("COUNTS"), load("COUNTS")
    assert [run(first).value.tolist() for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]
    assert run(second).value.tolist() == [1, 1]


def test_state_is_put_back_before_a_call_unless_it_goes_on(load):
    session = load("STATEFUL")
    assert [run(session).value.item() for _ in range(2)] == [1, 1]
    assert [run(session, anew=False).value.item() for _ in range(2)] == [2, 3]
    assert session.tensors(60.0)["buffer count"].item() == 0
    _, state = session.run(Call((torch.zeros(2),)), seed=0, limit=60.0, state=True)
    assert state["buffer count"].item() == 1


def test_what_a_call_writes_into_its_inputs_comes_back(load):
    outcome = run(load("STATEFUL"), Call((torch.zeros(2),)))
    assert outcome.inputs.args[0].tolist() == [1, 1]


def test_a_load_that_raises_is_told(ways, load):
    session = load("RAISES", "this")
    assert str(session.problem) == "ValueError: cannot load this"
    assert run(session) == session.problem


def test_a_call_that_raises_is_an_outcome(load):
    session = load("CALL_RAISES")
    assert [str(run(session)) for _ in range(2)] == ["ValueError: cannot run"] * 2
    assert isinstance(run(session), Raised)


@pytest.mark.parametrize("target", ["CRASH_IN_CALL", "NULL"])
def test_a_crash_is_told_by_its_signal_and_its_last_words(ways, load, target):
    session = load(target)
    outcome = run(session)
    assert isinstance(outcome, Crashed)
    assert outcome.reason == "it was killed by SIGSEGV"
    assert session.over
    assert run(session) == outcome


def test_what_was_printed_before_is_told(load):
    assert "last words of the artifact" in run(load("CRASH_IN_CALL")).output


def test_a_crash_while_loading_is_told(ways, load):
    problem = load("CRASH").problem
    assert isinstance(problem, Crashed)
    assert "SIGSEGV" in problem.reason


def test_an_abort_is_told(load):
    assert run(load("ABORT")).reason == "it was killed by SIGABRT"


def test_an_artifact_that_ends_its_interpreter_died(ways, load):
    assert run(load("EXITS_AT_ONCE")).reason == "it ended its process with exit status 3"
    assert str(load("EXITS").problem) == "SystemExit: 3"


def test_a_load_that_does_not_return_is_hung(ways, load):
    run(load("ADD"))  # the server is up
    session = load("HANG", limit=5.0)
    assert session.problem == TimedOut(5.0)
    assert session.over


def test_a_call_that_does_not_return_is_hung_and_its_process_gone(ways, load):
    session = load("HANG_IN_CALL")
    assert run(session, limit=0.3) == TimedOut(0.3)
    assert session.over


def test_memory_without_end_is_told_with_the_limit(ways, load):
    outcome = run(load("ALLOCATES", memory=1024))
    assert isinstance(outcome, Crashed)
    assert "exhausted its memory limit of 1024 MB (torchexport_memory_limit)" in outcome.reason


def test_a_limit_is_named_only_where_there_is_one(load, monkeypatch):
    """On CUDA nothing limits the process: the device has no more."""
    monkeypatch.setattr(Source, "most", None)
    session = load("NO_MEMORY")
    assert session.problem is None
    assert run(session).reason == "it ran out of memory: CUDA out of memory. Tried to allocate"


def test_limits_that_a_system_does_not_let_be_set_are_left(monkeypatch):
    resource = pytest.importorskip("resource")
    kept, asked = signal.getsignal(signal.SIGXFSZ), []

    def refuse(kind, bounds):
        asked.append((kind, bounds))
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    try:
        guard.limit(2000)
    finally:
        signal.signal(signal.SIGXFSZ, kept)
    assert [bounds for _, bounds in asked] == [(0, 0), (1000, 1000), (1000, 1000)]


def test_output_without_end_is_told_with_the_limit(ways, load):
    outcome = run(load("PRINTS"))
    assert isinstance(outcome, Crashed)
    assert outcome.reason == "it was killed by SIGXFSZ (it wrote more than 64 MB)"
    assert set(outcome.output) == {"x"}


@pytest.mark.parametrize("text", ["no frame", "not json", "closed"])
def test_an_artifact_that_speaks_in_the_place_of_its_process_is_not_believed(load, text):
    problem = load("NONSENSE", text, limit=20.0).problem
    assert isinstance(problem, Crashed), problem


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("network", "there is no network in the clean process"),
        ("name", "there is no network in the clean process"),
        ("program", "starts no other program"),
        ("shell", "starts no other program"),
        ("fork", "starts no other program"),
        ("write {}/elsewhere", "writes in its own directory only"),
        ("database {}/elsewhere", "writes in its own directory only"),
        ("database file:{}/elsewhere", "writes in its own directory only"),
        ("signal", "signals nobody else"),
        ("group", "signals nobody else"),
    ],
)
def test_what_is_forbidden_raises(load, tmp_path_factory, what, said):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    problem = load("TRIES", what.format(elsewhere)).problem
    assert isinstance(problem, Raised)
    assert problem.type == "PermissionError"
    assert said in problem.message
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "what",
    [
        "write at home",
        "temporary",
        "read",
        "database in memory",
        "database at home",
        "own tree",
    ],
)
def test_what_is_allowed_does_not(load, what):
    assert load("TRIES", what).problem is None


def test_a_pickle_that_names_code_is_refused_in_files_of_others_only(load):
    assert load("TRIES", "unpickle").problem is None
    problem = load("TRIES", "unpickle", trusted=False).problem
    assert "a pickle that names pathlib" in problem.message


def test_a_blocked_package_looks_as_if_it_were_not_installed(load):
    assert load("IMPORTS", "wave").problem is None
    problem = load("IMPORTS", "wave", blocked=("wave",)).problem
    assert str(problem) == "ModuleNotFoundError: No module named 'wave'"
    assert load("IMPORTS", "wave").problem is None


def test_a_blocked_package_is_blocked_with_all_that_is_below_it(load):
    problem = load("IMPORTS", "xmlrpc.client", blocked=("xmlrpc",)).problem
    assert "No module named" in str(problem)


def test_what_serving_imports_is_imported_first(load):
    session = load("MODULES", "wave", imports=("wave",))
    assert run(session).value.tolist() == [1, 1]


def test_what_serving_imports_is_found_where_the_session_finds_it(load, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "served_ops.py").write_text("import served_helper\n")
    (own / "served_helper.py").write_text("")
    monkeypatch.syspath_prepend(own)
    blocked = ("served_ops", "served_helper")
    problem = load("ADD", imports=("served_ops",), blocked=blocked).problem
    assert "torchexport_runtime_imports names served_ops, which cannot be imported" in str(problem)
    assert "No module named 'served_helper'" in str(problem)
    served = ("served_ops", "served_helper")
    assert load("ADD", imports=served, blocked=blocked).problem is None


def test_a_runtime_import_that_does_not_exist_is_told(load):
    assert "no_such_ops_library" in str(load("ADD", imports=("no_such_ops_library",)).problem)


def test_the_test_session_is_not_known_there(load):
    session = load("MODULES", "conftest test_sandbox specs")
    assert run(session).value.tolist() == [0, 0]


def test_nothing_of_the_users_environment_is_there(load, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    close()
    outcome = run(load("ENVIRONMENT"))
    assert outcome.value["secret"] == ""
    assert outcome.value["home"] != os.path.expanduser("~")  # noqa: PTH111  # as a shell sees it


def test_it_works_in_a_directory_of_its_own(load, tmp_path):
    value = run(load("WHERE")).value
    assert value["cwd"] == str(tmp_path)
    assert value["tmp"] == str(tmp_path)


def test_a_value_that_cannot_come_back_is_told_and_does_not_crash(load):
    outcome = run(load("OBJECT"))
    assert isinstance(outcome, NotTransferable)
    assert not outcome.own_class
    assert "cannot cross" in outcome.reason


def test_a_call_that_cannot_cross_is_told_before_anything_is_sent(load):
    session = load("ADD")
    outcome, _ = session.run(Call((Own(),)), seed=0, limit=1.0)
    assert outcome == NotTransferable(
        f"{__name__}.Own cannot cross to a process that does not know the class", own_class=True
    )
    assert isinstance(run(session), Returned)


@pytest.fixture
def forks():
    """A server of its own, where there is one at all."""
    if not process.FORKS:
        pytest.skip("there is no server where there is no fork")
    server = Server(TORCH)
    yield server
    server.close()


def test_a_copy_of_the_test_process_leaves_its_server_alone(forks):
    child = forks.start()
    pid = os.fork()
    if not pid:
        forks.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert forks.alive
    child.end()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forks, "_owner", -1)
        with pytest.raises(process.ServerUnavailable, match="belongs to who forked"):
            forks.start()


@pytest.mark.parametrize("where", ["_tell", "_answer"])
def test_an_interrupt_between_question_and_answer_shifts_none(forks, monkeypatch, where):
    """The alarm of a time limit comes between any two lines."""
    plain, first = getattr(Server, where), []

    def interrupted(self, *arguments):
        if where == "_tell":
            plain(self, *arguments)
        if not first:
            first.append(self)
            raise KeyboardInterrupt
        return plain(self, *arguments) if where == "_answer" else None

    monkeypatch.setattr(Server, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        forks.start()
    children = [forks.start() for _ in range(3)]
    assert len({child._pid for child in children}) == 3
    assert all(_lives(child._pid) for child in children)
    assert sorted(_children(forks._process.pid)) == sorted(child._pid for child in children)
    for child in children:
        child.end()
    assert not list(_children(forks._process.pid))


def _children(pid):
    return map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_what_a_server_cannot_import_is_told_and_nothing_else_is_lost(forks):
    own = forks.room()
    forks.preload(["no_such_module"])
    forks.start().end()
    assert own.is_dir()
    broken = Server(process.Library("no.answers", ("no_such_library",)))
    try:
        for _ in range(2):
            with pytest.raises(
                process.ServerUnavailable, match="No module named 'no_such_library'"
            ):
                broken.start()
        assert not broken.alive  # whoever asks for one gets another
    finally:
        broken.close()


def test_threads_share_a_server(forks):
    with ThreadPoolExecutor(8) as pool:
        children = list(pool.map(lambda _: forks.start(), range(40)))
        assert len({child._pid for child in children}) == 40
        list(pool.map(lambda child: child.end(), children))
    assert not list(_children(forks._process.pid))


def test_who_was_waited_for_is_not_killed_again(forks, monkeypatch):
    forks._process.kill()
    forks._process.wait()
    monkeypatch.setattr(process.os, "killpg", lambda *_: pytest.fail("it may be another's"))
    forks.close()


def test_a_torch_that_no_isolated_interpreter_finds_is_there_all_the_same(tmp_path):
    """As with ``pip install --user``, and paths that a cluster or a build system gives."""
    site, own = tmp_path / "site", tmp_path / "own"
    for name, requires in (("torch", "Requires-Dist: beside>1\n"), ("beside", ""), ("other", "")):
        info = site / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}"
        )
    own.mkdir()
    code = (
        "from pytest_torchexport.sandbox.installed import elsewhere; print(*elsewhere(), sep='\\n')"
    )
    root = pathlib.Path(process.__file__).parents[2]
    paths = [site / "torch", site / "other", site / "beside", own, root]
    for given, expected in ((paths, [site / "torch", site / "beside"]), ([root], [])):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, given))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert found.split() == list(map(str, expected))


# -- whoever dies, and when ------------------------------------------------------------------------


@where_it_forks
def test_the_death_of_the_server_is_told_and_the_next_artifact_is_loaded(load):
    run(load("ADD"))
    killed = threading.Timer(1.0, Server.of(TORCH)._process.kill)
    killed.start()
    problem = load("HANG").problem
    killed.join()
    assert isinstance(problem, Crashed)
    assert isinstance(run(load("ADD")), Returned)


@where_it_forks
def test_a_server_that_was_killed_between_artifacts_is_started_again(load):
    run(load("ADD"))
    server = Server.of(TORCH)
    server._process.kill()
    server._process.wait()
    assert isinstance(run(load("ADD")), Returned)
    assert Server.of(TORCH) is not server


@where_it_forks
def test_a_server_that_dies_while_an_artifact_is_loaded_takes_it_along(load):
    session = load("ADD")
    Server.of(TORCH)._process.kill()
    Server.of(TORCH)._process.wait()
    deadline = time.monotonic() + 20
    while isinstance(outcome := run(session), Returned) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(outcome, Crashed)
    assert isinstance(run(load("ADD")), Returned)


@where_it_forks
def test_a_child_that_is_killed_between_calls_died(load):
    session = load("ADD")
    os.kill(session._child._pid, signal.SIGKILL)
    outcome = run(session)
    assert outcome.reason.startswith("it was killed by SIGKILL")


def test_a_server_that_cannot_be_started_is_told(load, monkeypatch):
    close()
    monkeypatch.setattr(process.tempfile, "mkdtemp", _refuse)
    problem = load("ADD").problem
    assert problem.reason == (
        "the clean process could not be started: [Errno 28] No space left on device"
    )


def _refuse(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_an_interrupt_in_a_call_ends_its_process_and_nothing_else(load, monkeypatch):
    session, other = load("ADD"), load("ADD")
    with monkeypatch.context() as patched:
        patched.setattr(wire, "receive", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(session)
    assert session.over
    assert isinstance(run(other), Returned)


@where_it_forks
def test_an_interrupt_while_an_artifact_is_loaded_ends_its_process(load, monkeypatch):
    run(load("ADD"))
    server = Server.of(TORCH)
    before = sorted(_children(server._process.pid))
    with monkeypatch.context() as patched:
        patched.setattr(wire, "receive", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("ADD")
    assert sorted(_children(server._process.pid)) == before


def test_that_the_kernel_helps_is_known(load):
    assert load("ADD").confined == (landlock.version() > 0)


@pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no Landlock")
def test_native_code_of_own_files_writes_nowhere_else(load, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert run(load("NATIVE_WRITE", str(elsewhere / "new"))).value == -1
    assert not list(elsewhere.iterdir())


def _interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_server_leaves_no_files_and_no_process_behind(ways, load):
    session = load("HANG_IN_CALL")
    server = Server.of(TORCH)
    home, own = server.home, server.room()
    assert own.is_dir()
    run(session, limit=0.2)
    close()
    assert not home.exists()
    assert server._process is None or server._process.poll() is not None
    server.close()


PARENT = """
import os, signal, sys, torch
sys.path.insert(0, {here!r})
from pathlib import Path
from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.session import Session, Source
from pytest_torchexport.inputs.spec import Call
original = process.subprocess.Popen
def popen(command, **options):
    code = command[-1].replace("sys; ", "sys; sys.path.append({here!r}); ", 1)
    return original([*command[:-1], code], **options)
process.subprocess.Popen = popen
server = process.Server.of(process.TORCH)
source = Source(loader="sandbox_targets:HANG_IN_CALL", path=Path({path!r}), home=server.room(), device="cpu", memory=2048)
session = Session(source, 60.0)
print(server.home, server._process.pid, session._child._pid, flush=True)
session.run(Call((torch.zeros(1),)), seed=0, limit=600.0)
"""


@where_it_forks
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str)
def test_a_killed_parent_leaves_nothing_behind(tmp_path, number):
    path = tmp_path / "artifact.txt"
    path.write_text("1")
    code = textwrap.dedent(PARENT).format(here=str(pathlib.Path(__file__).parent), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        home, *pids = parent.stdout.readline().split()
        parent.send_signal(number)
        parent.wait()
    for _ in range(1000):
        if not pathlib.Path(home).exists() and not any(_lives(int(pid)) for pid in pids):
            return
        time.sleep(0.01)
    pytest.fail(f"left: {home} {pids}")


def _lives(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@where_it_forks
def test_a_thousand_artifacts_through_one_server_leave_it_as_it_was(load):
    run(load("ADD"))
    server = Server.of(TORCH)
    before = _open_files(server), _megabytes(server)
    for _ in range(1000):
        session = load("ADD")
        assert isinstance(run(session), Returned)
        session.close()
    assert Server.of(TORCH) is server
    files, megabytes = _open_files(server), _megabytes(server)
    assert files == before[0]
    assert megabytes < before[1] * 1.5  # of what torch alone takes


def _open_files(server):
    return len(os.listdir(f"/proc/{server._process.pid}/fd"))  # noqa: PTH208  # as the kernel lists them


def _megabytes(server):
    pages = pathlib.Path(f"/proc/{server._process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


@where_it_forks
def test_one_server_has_no_torch():
    Server.of(ONNXRUNTIME).start().end()
    maps = pathlib.Path(f"/proc/{Server.of(ONNXRUNTIME)._process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_words_for_no_memory_are_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert guard.is_exhausted(str(raised.value))
    assert not guard.is_exhausted(
        "RuntimeError: The size of tensor a must match the size of tensor b"
    )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(12.0)[::3],
        torch.arange(3.0).expand(4, 3),
        torch.arange(2.0).reshape(2, 1).expand(2, 5),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}-{tensor.stride()}",
)
def test_tensors_lie_in_memory_as_they_did(load, tensor):
    value = run(load("LAYOUT"), Call((tensor,), {"y": torch.ones(2)})).value
    # Each call is made on a clone, there as here.
    assert tuple(value["strides"]) == tensor.clone().stride()
    assert torch.equal(value["x"], tensor)
