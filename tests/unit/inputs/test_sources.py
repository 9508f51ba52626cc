"""inputs/sources.py: what a file or an element may be, and in what form it becomes a call."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import torch

from pytest_torchexport.config.options import Inputs
from pytest_torchexport.inputs import sources
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.failures import SpecError

X, Y = torch.ones(2, 3), torch.zeros(2)


def forward(x, mask=None, *, scale=1.0):
    pass


def of_state(x, state):
    pass


def of_batch(batch):
    pass


def read(elements, example, function=forward, root=None, most=100):
    inputs = Inputs(elements, most)
    return sources.read(inputs, example, inspect.signature(function), "Net", root)


@pytest.mark.parametrize(
    "element",
    [
        X,
        X.numpy(),
        (X,),
        [X, 7],
        {"x": X},
        {"x": X, "label": 3},
        {"arr_0": X},
        Call((X,)),
        Call((), {"x": X}),
    ],
    ids=str,
)
def test_an_element_becomes_the_call_of_the_example(element):
    (call,) = read([element], Call((Y.new_empty(1, 3),))).calls
    assert torch.equal(call.args[0], X)
    assert not call.kwargs
    assert call.origin == "inputs[0]"


def test_keywords_and_containers_are_found_by_name_and_by_path():
    example = Call((X, [Y, {"h": Y}]))
    by_path = {"state[1]['h']": Y + 2, "x": X, "state[0]": Y + 1}
    for element in (by_path, {"x": X, "state": [Y + 1, {"h": Y + 2}]}, (X, [Y + 1, {"h": Y + 2}])):
        (call,) = read([element], example, of_state).calls
        assert [float(leaf.max()) for leaf in call.leaves()] == [1.0, 1.0, 2.0]


def test_a_dict_may_be_the_first_argument():
    (call,) = read([{"a": X + 1}], Call(({"a": X},)), of_batch).calls
    assert torch.equal(call.args[0]["a"], X + 1)


def test_python_values_have_to_be_those_of_the_example():
    example = Call((X,), {"scale": 2.0})
    found = read([{"x": X, "scale": 2.0}, {"x": X}, {"x": X, "scale": np.float64(3.0)}], example)
    assert len(found.calls) == 2
    assert "1 of 3 left out: scale is 3.0, in the example 2.0" in found.cautions[0]


def test_an_argument_that_the_example_does_not_pass_is_a_caution_and_others_a_note():
    found = read([{"x": X, "mask": Y, "label": 1}], Call((X,)))
    assert found.cautions == ("inputs: mask: not passed, as in the call of the example",)
    assert found.notes == ("inputs: label: no argument of forward, left out",)


def test_a_wrong_name_is_told_with_those_that_are_there():
    with pytest.raises(SpecError, match="has no x; it has xx, y"):
        read([{"xx": X, "y": Y}], Call((X,)))


def test_arrays_of_the_first_input_are_tensors_without_an_example():
    found = read([{"x": X.numpy()}, {"x": X.numpy() + 1}], Call())
    assert [type(call.args[0] if call.args else call.kwargs["x"]) for call in found.calls] == [
        torch.Tensor,
        torch.Tensor,
    ]


def test_without_an_example_the_first_input_is_it():
    for element in (X, (X, 3), {"x": X, "label": 3}):
        (call,) = read([element], Call()).calls
        assert len(call.leaves()) == 1


def test_what_a_source_raises_is_told():
    def broken():
        yield X
        raise OSError("disk gone")

    with pytest.raises(SpecError, match="reading number 1 raised OSError: disk gone"):
        read(broken(), Call((X,)))


def test_no_more_bytes_are_held_than_the_limit(monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 2 * X.nbytes)
    found = read([X] * 5, Call((X,)))
    assert len(found.calls) == 2
    assert found.notes == ("inputs: the first 2, which are 0 MiB",)


def test_files_of_all_types_are_read_in_order(tmp_path):
    from safetensors.torch import save_file

    np.savez(tmp_path / "a.npz", X.numpy())
    save_file({"x": X + 1}, tmp_path / "b.safetensors")
    torch.save({"x": X + 2}, tmp_path / "c.pt")
    (tmp_path / "README").write_text("not read")
    for source in (".", tmp_path, "[a-c].*", tmp_path / "[a-c].*"):
        calls = read(source, Call((X,)), root=tmp_path).calls
        assert [(each.origin[0], float(each.args[0].max())) for each in calls] == [
            ("a", 1),
            ("b", 2),
            ("c", 3),
        ]
    assert read(".", Call((X,)), root=tmp_path, most=2).notes == ("inputs: the first 2 of 3 files",)


def test_a_directory_of_a_recording_has_a_folder_of_the_class(tmp_path):
    (tmp_path / "Net").mkdir()
    torch.save({"x": X}, tmp_path / "Net" / "a.pt")
    (call,) = read(tmp_path, Call((X,)), root=tmp_path).calls
    assert call.origin == "Net/a.pt"


def test_items_of_one_test_read_their_inputs_once():
    inputs = Inputs(iter([X]))
    for _ in range(2):
        assert (
            len(sources.read(inputs, Call((X,)), inspect.signature(forward), "Net", None).calls)
            == 1
        )
    with pytest.raises(SpecError, match="an iterator can be read only once"):
        read(inputs.source, Call((X,)))


def test_a_tensor_that_is_filled_again_and_again_is_copied():
    def filled():
        held = torch.zeros(2, 3)
        for number in range(3):
            yield held.fill_(number)

    assert [float(call.args[0].max()) for call in read(filled(), Call((X,))).calls] == [0, 1, 2]


def test_an_iterator_gives_the_same_inputs_to_other_modules_and_targets():
    inputs, signature = Inputs((X + i for i in range(9)), 4), inspect.signature(forward)
    first, *others = (
        [
            float(call.args[0][0, 0])
            for call in sources.read(each, example, signature, name, None).calls
        ]
        for name in ("Net", "Other", "Net")
        for each, example in ((inputs, Call((X,))), (Inputs([X]), Call((X,))))
    )
    assert others[1::2] == [first, first]


def test_a_container_in_the_place_of_a_tensor_is_named_by_its_leaves():
    with pytest.raises(SpecError, match=re.escape("has no x; it has x['a']")):
        read([{"x": {"a": X}}], Call((X,)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X.to_sparse(), "x is sparse_coo float32 of 2 axes, in the example float32 of 2 axes"),
        (np.array(["a"]), "x is an array of <U1, in the example float32 of 2 axes"),
    ],
)
def test_what_does_not_fit_is_told_from_what_does(given, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        read([{"x": given}], Call((X,)))


def test_a_path_that_cannot_be_looked_at_is_told(tmp_path):
    with pytest.raises(SpecError, match=r"inputs: .*File name too long"):
        read("x" * 5000, Call((X,)), root=tmp_path)
