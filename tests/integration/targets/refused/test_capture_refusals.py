"""targets/refused/capture_refusals.py: what torch.export refuses, and that it takes what is advised."""

import copy
import dataclasses
import functools
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusal_rules import diagnosed
from pytest_torchexport.targets.refused.capture_refusals import GENERIC, RULES
from tests.refusing import refusal, silent

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
    return exported(module(function), x)


def exported(subject, *args, **options):
    torch.compiler.reset()
    with quiet("cpu"), suppress_output(), torch.no_grad():
        return torch.export.export(subject, args, **options)


@functools.cache
def refused(bad):
    return refusal(bad if bad in WHOLE else lambda: export(bad, torch.rand(4, 4)))


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


def by_channel(self, x):
    scales, zeros = torch.ones(4), torch.zeros(4).long()
    return torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8).dequantize()


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        self.weight.add_(1)
        return x * self.weight


class Takes(nn.Module):
    def forward(self, given):
        return given.value * 2


class Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x, lengths):
        return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1]


class HasCode(nn.Module):
    def __init__(self):
        super().__init__()
        self.code = nn.Linear(4, 4)

    def forward(self, x):
        return self.code(x)


class PacksWithAState(Packs):
    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.rnn(packed, x.new_zeros(1, x.shape[0], 4))[1]


class Masks(Packs):
    """What packing gives, of padded steps."""

    def forward(self, x, lengths):
        steps = self.rnn(x)[0]
        last = torch.arange(x.shape[1]) == lengths[:, None] - 1
        return (steps * last[..., None]).sum(1)[None]


class Catches(nn.Module):
    def forward(self, x):
        try:
            return x.view(5, 5)
        except RuntimeError:
            return x


def written_with_gradients():
    with quiet("cpu"), suppress_output(), torch.enable_grad():
        torch.export.export(Writes(), (torch.rand(4, 4),))


def takes_an_object():
    exported(Takes(), Output(torch.rand(4)))


def packs_a_sequence():
    exported(Packs().eval(), torch.rand(2, 3, 4), torch.tensor([3, 2]))


def packs_with_a_state():
    call = torch.rand(2, 3, 4), torch.tensor([3, 2])
    batch = {0: torch.export.Dim.DYNAMIC}
    exported(PacksWithAState().eval(), *call, dynamic_shapes=(batch, batch))


def has_code():
    exported(HasCode(), torch.rand(4, 4)).module()


def catches_exceptions():
    exported(Catches(), torch.rand(4, 4), strict=True)


def holds_an_object_of_torchscript():
    layers = nn.Sequential(nn.Linear(4, 4))
    with quiet("cpu"):  # it warns that it is deprecated
        subject = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})
    exported(subject, torch.rand(4, 4))


def operator_on_the_meta_device():
    torch.ops.refused.plain(torch.empty(4, device="meta"))


def varies_from_one():
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    exported(module(cloned), torch.rand(1, 4), dynamic_shapes=shapes)


def looked_up(self, x):
    return x * {4: 2.0, 8: 3.0}.get(x.shape[0], 1.0)


def looks_up_a_size_that_varies():
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    exported(module(looked_up), torch.rand(4, 4), dynamic_shapes=shapes)


def either(self, x):
    return x * 2 if (x.shape[0] > 3) ^ (x.shape[1] > 3) else x


def decided(self, x):
    return x * 2 if bool(x.shape[0] > 3) ^ bool(x.shape[1] > 3) else x


VARIES = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)


def combines_conditions_on_sizes():
    exported(module(either), torch.rand(4, 5), dynamic_shapes=VARIES)


# Calls of torch.export, where a forward with one tensor does not show the refusal.
WHOLE = (
    written_with_gradients,
    looks_up_a_size_that_varies,
    takes_an_object,
    packs_a_sequence,
    packs_with_a_state,
    has_code,
    catches_exceptions,
    holds_an_object_of_torchscript,
    operator_on_the_meta_device,
    varies_from_one,
    combines_conditions_on_sizes,
)


def result(forward, x):
    found = forward(x)
    return found.value if isinstance(found, Registered) else found


# forward, what torch.export takes in its place (None: shown by another row, or not to be had), words
# of the cause, words of the remedy.
ROWS = [
    (combines_conditions_on_sizes, None, "no ^ for a size", "bool(a) ^ bool(b)"),
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
    (by_channel, None, "the shapes that aten::quantize_per_channel returns", ""),
    (written_with_gradients, None, "writes into a parameter", "torch.no_grad()"),
    (looks_up_a_size_that_varies, None, "as a key", "in __init__"),
    (takes_an_object, None, "takes an object of Output", "register_dataclass(Output)"),
    (packs_a_sequence, None, "the lengths of a packed sequence", "mask its output"),
    (packs_with_a_state, None, "the lengths of a packed sequence", "mask its output"),
    (has_code, None, "an attribute code of its own", "self.code_"),
    (holds_an_object_of_torchscript, None, "a TorchScript object", "before it is quantized"),
    (operator_on_the_meta_device, None, "refused::plain has no fake kernel", "register_fake"),
    (varies_from_one, None, "a varying size that is 1 in the example", "at least 2"),
    (catches_exceptions, None, "", ""),
]


@pytest.mark.parametrize(
    ("bad", "good", "words", "advice"), ROWS, ids=[row[0].__name__ for row in ROWS]
)
def test_a_refusal_has_a_cause_and_a_remedy_that_torch_takes(bad, good, words, advice):
    (cause,) = diagnosed(refused(bad).error, "export").causes
    assert words in cause.text
    assert advice in cause.remedy
    if good is not None:
        x = torch.rand(4, 4)
        found = result(export(good, x).module(), x)
        torch.testing.assert_close(found, result(module(good), x))


def test_a_padded_sequence_gives_what_a_packed_one_does():
    masks, packs = Masks().eval(), Packs().eval()
    packs.load_state_dict(masks.state_dict())
    call = torch.rand(2, 3, 4), torch.tensor([3, 2])
    torch.testing.assert_close(exported(masks, *call).module()(*call), packs(*call))


@pytest.mark.parametrize("bad", [numpys, library_operator])
def test_the_users_line_is_named(bad):
    (cause,) = diagnosed(refused(bad).error, "export").causes
    assert cause.where.line == bad.__code__.co_firstlineno + 1


def test_conditions_on_sizes_that_are_decided_first_are_taken():
    exported(module(decided), torch.rand(4, 5), dynamic_shapes=VARIES)


def test_every_rule_is_shown():
    assert silent((*RULES, *GENERIC), (refused(row[0]) for row in ROWS)) == []


@pytest.mark.parametrize("text", ["", "anything", "Expected a Tensor"])
def test_a_refusal_that_no_rule_knows_has_no_cause(text):
    for target in ("trace", "script", "export", "onnx", "onnx_legacy", "own"):
        assert diagnosed(RuntimeError(text), target).causes == ()
