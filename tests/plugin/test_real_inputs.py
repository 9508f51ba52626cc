"""Real inputs through pytest: the words of what is left out, and the calls that a run records."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from slow import slow

MARKED = """
@pytest.mark.torchexport("mirror", inputs="calls")
def test_net(x): Net()(x)
"""


@pytest.fixture
def calls(pytester):
    """Store calls of Net under their numbers; the first has the largest number, 39."""
    folder = pytester.mkdir("calls")

    def store(*arrays, **named):
        for number, array in enumerate(arrays):
            np.savez(folder / f"{number}.npz", x=array)
        for name, array in named.items():
            np.savez(folder / f"{name}.npz", **array)

    store(*[np.full((2, 3), 39.0 - number, np.float32) for number in range(5)])
    return store


def test_all_stored_calls_run_first_and_are_counted(suite, run, calls, verdicts):
    suite(MARKED)
    run("--torchexport-report=json:out.json").assert_outcomes(passed=1)
    (verdict,) = verdicts()["test_net[mirror-cpu]"]
    assert verdict.calls["inputs"] == 5
    assert not verdict.cautions


def test_a_failure_names_the_real_inputs(suite, run, calls, text_of):
    calls(one={"x": np.ones((1, 3), np.float32)}, single={"x": np.zeros((1, 3), np.float32)})
    suite(MARKED.replace("mirror", "liar"))
    result = run()
    result.assert_outcomes(failed=1)
    assert "real inputs: 2 of 7 fail: calls/one.npz, calls/single.npz" in text_of(result)


def test_what_does_not_fit_is_left_out_counted_and_said(suite, run, calls, text_of):
    calls(
        wide={"x": np.zeros((2, 3))}, flat={"x": np.zeros(3, np.float32)}, other={"y": np.ones(3)}
    )
    suite(MARKED)
    result = run()
    result.assert_outcomes(passed=1)
    text = text_of(result)
    assert (
        "inputs: 1 of 8 left out: x is float64 of 2 axes, in the example float32 of 2 axes" in text
    )
    assert (
        "x is float32 of 1 axis, in the example float32 of 2 axes (for a batch, give a DataLoader)"
        in text
    )
    assert "inputs: 1 of 8 left out: has no x; it has y" in text


def test_what_eager_refuses_and_what_dims_forbid_is_said(suite, run, calls, text_of):
    calls(long={"x": np.zeros((9, 3), np.float32)}, narrow={"x": np.zeros((2, 4), np.float32)})
    suite(MARKED.replace('"calls"', '"calls", shapes={"x": "batch width"}, dims={"batch": (1, 4)}'))
    text = text_of(run())
    assert (
        "inputs: 2 of 7 not run: their sizes are left out, by shapes= or dims=, or because eager refuses them"
        in text
    )


def test_a_check_that_runs_none_is_said(suite, run, calls, text_of):
    suite(MARKED.replace('"calls"', '"calls", checks=["state"]'))
    assert "inputs: 5 not run: checks= leaves out parity, which runs them" in text_of(run())


def test_what_filter_forbids_is_said(suite, run, calls, text_of):
    suite(MARKED.replace('"calls"', '"calls", filter=lambda x: bool(x.max() < 37.5)'))
    text = text_of(run())
    assert "inputs: 2 of 5 not run (calls/0.npz, calls/1.npz): filter=" in text


def test_values_that_no_call_reaches_are_told(suite, run, calls, text_of):
    suite(MARKED.replace('"calls"', '"calls", values={"x": (-1.0, 3.0)}'))
    assert "x: real values from -1 to 39, drawn from -1 to 3" in text_of(run("-v"))


WORDS = {
    "empty": "the directory 'empty' is empty; legal: files of .npz, .safetensors, .pt",
    "nothing/*.npz": "no file matches 'nothing/*.npz' below",
    "calls/*.csv": "calls/a.csv: legal: files of .npz, .safetensors, .pt; a pickle is never loaded",
    "broken.npz": "broken.npz: holds Python objects, or is damaged",
    "objects.npz": "objects.npz: holds Python objects, or is damaged",
    "pickled.pt": "pickled.pt: holds Python objects, or is damaged. Only tensors are loaded",
    "broken.pt": "broken.pt: ",
    "broken.safetensors": "broken.safetensors: cannot be read: ",
}


@pytest.mark.parametrize("source", WORDS)
def test_what_cannot_be_read_is_told_in_words(suite, run, calls, text_of, pytester, source):
    pytester.mkdir("empty")
    (pytester.path / "calls" / "a.csv").write_text("1")
    for name in ("broken.npz", "broken.pt", "broken.safetensors"):
        (pytester.path / name).write_bytes(b"PK not what it says")
    np.savez(pytester.path / "objects.npz", x=np.array([{}]))
    torch.save(torch.nn.Linear(3, 2), pytester.path / "pickled.pt")
    suite(MARKED.replace('"calls"', repr(source)))
    result = run()
    result.assert_outcomes(failed=1)
    assert f"SpecError: inputs: {WORDS[source]}" in text_of(result)
    assert "Traceback" not in text_of(result)


@pytest.mark.parametrize("wrong", ["3", "{'x': [1]}", "torch.ones(2)", "(['a'], 'b')", "([], 0)"])
def test_a_wrong_argument_stops_the_collection(suite, run, text_of, wrong):
    suite(f"@pytest.mark.torchexport(inputs={wrong})\ndef test_net(x): Net()(x)\n")
    result = run()
    result.assert_outcomes(errors=1)
    assert "@pytest.mark.torchexport: inputs: " in text_of(result)


ITERABLES = """
from torch.utils.data import DataLoader, Dataset, IterableDataset

class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(2, 3), torch.tensor(1)

class Pairs(Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return torch.full((3,), float(i)), i

def made():
    yield from [torch.ones(2, 3)] * 3

@pytest.mark.torchexport("mirror", inputs=(DataLoader(Endless(), batch_size=None), 7))
def test_endless(x): Net()(x)
@pytest.mark.torchexport("mirror", inputs=DataLoader(Pairs(), batch_size=2))
def test_pairs(x): Net()(x)
@pytest.mark.torchexport("mirror", inputs=Pairs())
def test_no_batch(x): Net()(x)
@pytest.mark.torchexport("mirror", "liar", inputs=made())
def test_generator(x): Net()(x)
@pytest.mark.torchexport("mirror", inputs=[torch.zeros(2, 3), {"x": torch.ones(4, 3)}, (torch.ones(2, 3),)])
def test_list(x): Net()(x)
@pytest.mark.torchexport("mirror")
def test_without_example(torchexport):
    torchexport.using(inputs=[(torch.zeros(2, 3), "label")]).check(Net())
"""


def test_iterables_are_read_as_far_as_asked_for(suite, run, text_of, verdicts):
    suite(ITERABLES)
    result = run("--torchexport-report=json:out.json")
    of = {name: verdict for name, (verdict,) in verdicts().items()}
    counts = {name.partition("[")[0]: each.calls.get("inputs", 0) for name, each in of.items()}
    assert counts == {
        "test_endless": 7,
        "test_pairs": 2,
        "test_no_batch": 0,
        "test_generator": 3,
        "test_list": 3,
        "test_without_example": 0,
    }
    assert "inputs: the first 7 of more" in of["test_endless[mirror-cpu]"].notes
    assert "inputs: part 2: no argument of forward, left out" in of["test_pairs[mirror-cpu]"].notes
    assert (
        "inputs: none fits the call of the example; 4 of 4 left out: x is float32 of 1 axis, in the example "
        "float32 of 2 axes (for a batch, give a DataLoader) (inputs[0], inputs[1], inputs[2] and 1 more)"
        in of["test_no_batch[mirror-cpu]"].reason
    )
    result.assert_outcomes(passed=5, failed=2)  # the liar, and the Dataset without a batch


RECORDED = """
@pytest.mark.parametrize("size", [1, 2, 2])
def test_net(size):
    for number in range(3):
        Net()(torch.full((size, 3), float(number)))
@pytest.mark.torchexport("mirror")
def test_marked(x): Net()(x)
"""
RECORD = "--torchexport-record=calls"


def test_calls_are_recorded_once_and_can_be_read_again(suite, run, text_of, pytester):
    suite(RECORDED)
    result = run(RECORD)
    result.assert_outcomes(passed=4)  # the marker makes no items
    text = text_of(result)
    assert "calls/test_it.py-test_net/Net: 6 written, 3 there already" in text
    assert "calls/test_it.py-test_marked/Net: 1 written" in text
    assert '@pytest.mark.torchexport(inputs="calls/test_it.py-test_net")' in text
    suite(MARKED.replace('"calls"', '"calls/test_it.py-test_net"'))
    result = run("-v")
    result.assert_outcomes(passed=1)
    assert "6 inputs" in text_of(result)


@slow
def test_workers_record_into_the_same_directory(suite, run, text_of, pytester):
    suite(RECORDED)
    text = text_of(run(RECORD, "-n2"))
    written, known = re.search(r"test_net/Net: (\d+) written, (\d+) there already", text).groups()
    assert int(written) + int(known) == 9
    folder = pytester.path / "calls/test_it.py-test_net/Net"
    assert [path.suffix for path in folder.iterdir()] == [".pt"] * 6


def test_a_recording_has_limits_and_never_overwrites(suite, run, text_of, monkeypatch, pytester):
    from pytest_torchexport.plugin import record

    monkeypatch.setattr(record, "MOST_CALLS", 4)
    suite(RECORDED)
    assert "Net: 4 written, 1 there already, 4 left out (of a test and class, 4 calls" in text_of(
        run(RECORD)
    )
    folder = pytester.path / "calls/test_it.py-test_net/Net"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "Net: 5 there already, 4 left out" in text_of(run(RECORD))
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


UNSTORED = """
def test_fake():
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        Net()(torch.ones(2, 3))
def test_sparse(): Net()(torch.eye(3).to_sparse())
def test_subclass():
    class Local(torch.Tensor):
        pass
    Net()(torch.ones(2, 3).as_subclass(Local))
def test_in_the_way():
    import pathlib
    place = pathlib.Path("calls/test_it.py-test_in_the_way")
    place.mkdir()
    place.joinpath("Net").touch()
    Net()(torch.ones(2, 3))
"""


def test_what_cannot_be_stored_is_told_and_fails_no_test(suite, run_apart, text_of):
    suite(UNSTORED)
    result = run_apart(RECORD)
    result.assert_outcomes(passed=4)
    text = text_of(result)
    for name in ("fake", "sparse"):
        assert f"-test_{name}/Net: 1 not stored (x is sparse, quantized, or without" in text
    assert "-test_subclass/Net: 1 written" in text
    assert "-test_in_the_way/Net: 1 not stored (FileExistsError" in text


def test_a_place_where_nothing_can_be_written_stops_the_run(suite, run, text_of, pytester):
    suite(RECORDED)
    pytester.path.joinpath("file").touch()
    result = run("--torchexport-record=file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--torchexport-record: cannot write there: " in text_of(result)
    assert "x/../calls" not in text_of(run("--torchexport-record=x/../calls"))


def test_a_recording_is_not_together_with_a_survey(suite, run, text_of):
    suite(RECORDED)
    result = run(RECORD, "--torchexport-survey")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--torchexport-record: not together with --torchexport-survey" in text_of(result)


def test_the_tests_own_calls_run_all_if_they_are_small(suite, run, verdicts):
    suite(
        "@pytest.mark.torchexport('mirror')\n"
        "def test_net():\n    net = Net()\n    for n in range(130): net(torch.full((2, 3), n / 8))\n"
    )
    run("--torchexport-report=json:out.json").assert_outcomes(passed=1)
    (verdict,) = verdicts()["test_net[mirror-cpu]"]
    assert verdict.calls["recorded"] == 99
    assert (
        "of the test's calls, 30 were not run again, beside 100 that were; inputs= takes more"
        in verdict.notes
    )
