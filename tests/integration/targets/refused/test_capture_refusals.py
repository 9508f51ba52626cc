"""targets/refused/capture_refusals.py: what torch.export refuses, and that it takes what is advised."""

import copy
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusal_rules import diagnosed

LIBRARY = torch.library.Library("refused", "DEF")
LIBRARY.define("plain(Tensor x) -> Tensor")
LIBRARY.impl("plain", lambda x: x.clone(), "CPU")
LIBRARY.define("shaped(Tensor x) -> Tensor")
LIBRARY.impl("shaped", lambda x: x.clone(), "CPU")
torch.library.register_fake("refused::shaped", torch.empty_like, lib=LIBRARY)


@torch.library.custom_op("refused::own", mutates_args=())
def own(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@dataclasses.dataclass
class Output:
    value: torch.Tensor


@dataclasses.dataclass
class Registered:
    value: torch.Tensor


torch.export.register_dataclass(Registered)


def module(function):
    """A module of which the function is ``forward``."""
    return type(function.__name__, (nn.Module,), {"forward": function})().eval()


def export(function, x):
    torch.compiler.reset()
    with quiet("cpu"), suppress_output(), torch.no_grad():
        return torch.export.export(module(function), (x,))


def distribution(self, x):
    # torch.compile, once called in a process, changes what is the default.
    return torch.distributions.Normal(x, x.abs() + 1, validate_args=True).log_prob(x)


def distribution_not_validated(self, x):
    return torch.distributions.Normal(x, x.abs() + 1, validate_args=False).log_prob(x)


def classes(self, x):
    return nn.functional.one_hot(x.long())


def classes_counted(self, x):
    return nn.functional.one_hot(x.long(), num_classes=4)


def math_of_a_tensor(self, x):
    return x * math.sqrt(x.sum())


def torch_of_a_tensor(self, x):
    return x * torch.sqrt(x.sum())


def found(self, x):
    y = x.nonzero()
    return y.view(2, -1)


def mapped(self, x):
    return torch.vmap(lambda row: row if row.sum() > 0 else -row)(x)


def mapped_by_where(self, x):
    return torch.vmap(lambda row: torch.where(row.sum() > 0, row, -row))(x)


def numpys(self, x):
    return x * np.sqrt(x)


def formatted(self, x):
    print(f"{x.mean():.3f}")
    return x * 2


def formatted_in_eager(self, x):
    if not torch.compiler.is_exporting():
        print(f"{x.mean():.3f}")
    return x * 2


def copied(self, x):
    return copy.deepcopy(x) * 2


def cloned(self, x):
    return x.clone() * 2


def addressed(self, x):
    return x * 2 if x.data_ptr() % 2 == 0 else x


def saved(self, x):
    torch.save(x, io.BytesIO())
    return x * 2


def tensor_of_tensors(self, x):
    return torch.tensor([x.sum(), x.mean()])


def stacked(self, x):
    return torch.stack([x.sum(), x.mean()])


DECODER = nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, batch_first=True), 1).eval()


def mask_compared(self, x):
    return DECODER(x[None], x[None], tgt_mask=x * 0)


def mask_described(self, x):
    return DECODER(x[None], x[None], tgt_mask=x * 0, tgt_is_causal=False)


def generator(self, x):
    return (row * 2 for row in x)


def listed(self, x):
    return [row * 2 for row in x]


def with_dtype(self, x):
    return x * 2, x.dtype


def dataclass(self, x):
    return Output(x * 2)


def registered(self, x):
    return Registered(x * 2)


def own_operator(self, x):
    return torch.ops.refused.own(x)


def library_operator(self, x):
    return torch.ops.refused.plain(x)


def library_operator_with_shapes(self, x):
    return torch.ops.refused.shaped(x)


def nested(self, x):
    return torch.nested.nested_tensor([x[:2], x[:3]]).to_padded_tensor(0.0)


def least_squares(self, x):
    return torch.linalg.lstsq(x, x)[0]


def cond_of_two_dtypes(self, x):
    return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: (v * 2).long(), (x,))


def cond_of_one_dtype(self, x):
    return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: (v * 3).float(), (x,))


def result(forward, x):
    found = forward(x)
    return found.value if isinstance(found, Registered) else found


# forward, what torch.export takes in its place (None: shown by another row, or not to be had), words
# of the cause, words of the remedy.
ROWS = [
    (distribution, distribution_not_validated, "checks the values", "validate_args=False"),
    (numpys, torch_of_a_tensor, "gives a tensor to NumPy", "torch.sqrt in place of np.sqrt"),
    (dataclass, registered, "an object of Output", "register_dataclass(Output)"),
    (own_operator, None, "refused::own has no fake kernel", 'register_fake("refused::own")'),
    (
        library_operator,
        library_operator_with_shapes,
        "refused::plain has no fake kernel",
        'register_fake("refused::plain")',
    ),
    (classes, classes_counted, "one_hot takes the number of classes", "num_classes=n"),
    (math_of_a_tensor, torch_of_a_tensor, "math.sqrt makes a Python number", "torch.sqrt"),
    (found, None, "a size that comes from values", "_check(2*"),
    (mapped, mapped_by_where, "a function under vmap", "torch.where"),
    (formatted, formatted_in_eager, "formats the value", "is_exporting()"),
    (copied, cloned, "calls deepcopy", "x.clone()"),
    (addressed, None, "the address of a tensor", ""),
    (saved, None, "saves a tensor", ""),
    (tensor_of_tensors, stacked, "torch.tensor of tensors", "torch.stack([a, b])"),
    (mask_compared, mask_described, "compares the mask with a causal one", "tgt_is_causal=True"),
    (generator, listed, "returns a generator", "[...]"),
    (with_dtype, None, "returns a torch.dtype", ""),
    (nested, None, "the shapes that aten._nested_tensor_from_tensor_list returns", ""),
    (least_squares, None, "the shapes that aten.linalg_lstsq returns depend on values", ""),
    (cond_of_two_dtypes, cond_of_one_dtype, "torch.cond return other dtypes", ".to(dtype)"),
]


@pytest.mark.parametrize(
    ("bad", "good", "words", "advice"), ROWS, ids=[row[0].__name__ for row in ROWS]
)
def test_a_refusal_has_a_cause_and_a_remedy_that_torch_takes(bad, good, words, advice):
    x = torch.rand(4, 4)
    with pytest.raises(Exception) as caught:  # torch has many classes
        export(bad, x)
    (cause,) = diagnosed(caught.value, "export").causes
    assert words in cause.text
    assert advice in cause.remedy
    if good is not None:
        found = result(export(good, x).module(), x)
        torch.testing.assert_close(found, result(module(good), x))


@pytest.mark.parametrize("bad", [numpys, library_operator])
def test_the_users_line_is_named(bad):
    with pytest.raises(Exception) as caught:  # torch has many classes
        export(bad, torch.rand(4, 4))
    (cause,) = diagnosed(caught.value, "export").causes
    assert cause.where.line == bad.__code__.co_firstlineno + 1


def test_torchs_own_explanation_is_taken_if_there_is_no_rule():
    def catches(self, x):
        try:
            return x.view(5, 5)
        except RuntimeError:
            return x

    torch.compiler.reset()
    with (
        pytest.raises(Exception) as caught,  # torch has many classes
        quiet("cpu"),
        suppress_output(),
    ):
        torch.export.export(module(catches), (torch.rand(4, 4),), strict=True)
    assert diagnosed(caught.value, "export").causes


@pytest.mark.parametrize("text", ["", "anything", "Expected a Tensor"])
def test_a_refusal_that_no_rule_knows_has_no_cause(text):
    for target in ("trace", "script", "export", "onnx", "onnx_legacy", "own"):
        assert diagnosed(RuntimeError(text), target).causes == ()
