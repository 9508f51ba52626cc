"""targets/refused/onnx_refusals.py: what ONNX's exporters and ONNX Runtime refuse, and what they take."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport import check_export, targets
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusal_rules import diagnosed
from pytest_torchexport.targets.refused.onnx_refusals import INSTEAD, LEGACY, RULES
from tests.refusing import refusal, silent
from tests.slow import slow
from tests.specs import spec_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@torch.library.custom_op("refused::onnx", mutates_args=())
def own(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@own.register_fake
def _(x):
    return torch.empty_like(x)


def module(function):
    """A module of which the function is ``forward``."""
    return type("Net", (nn.Module,), {"forward": lambda _, x: function(x)})().eval()


def verdict_of(forward, target="onnx", **options):
    torch.manual_seed(0)
    with torch.no_grad():
        x = torch.rand(4, 4)
        subject = forward.eval() if isinstance(forward, nn.Module) else module(forward)
        return check_export(
            subject, (x,), target=target, checks="parity", max_examples=2, **options
        )


def sampled(x):
    return F.grid_sample(x[None, None], x[None, :, :2][:, None])


class Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x.double())


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


QUICK = [
    (Erf(), "runtime", "ONNX Runtime has no kernel of Erf for double", "x.float()"),
    (Eigenvalues(), "translation", "no translation of aten.linalg_eig", "no linear algebra"),
]
REST = [
    (
        lambda x: 1.0 - (x > 0.5).long().cumsum(0),
        "translation",
        "cannot convert the dtypes of aten.sub where a float of Python's comes first",
        "1.0 - x.float()",
    ),
    (
        lambda x: torch.exp(torch.complex(x, x)).real,
        "translation",
        "aten.exp for complex tensors",
        "view_as_real",
    ),
    (
        torch.ops.refused.onnx,
        "translation",
        "no translation of refused.onnx",
        "{torch.ops.refused.onnx.default: a_function_of_onnxscript}}}",
    ),
    (
        lambda x: F.conv1d(x[None].bfloat16(), torch.ones(4, 4, 1).bfloat16()).float(),
        "translation",
        "ONNX has no Conv of bfloat16",
        "x.float()",
    ),
    (
        lambda x: (x.bfloat16() @ x.bfloat16().T).float(),
        "runtime",
        "no kernel of MatMul for bfloat16",
        "x.float()",
    ),
    (
        lambda x: {"a": "b", "x": x},
        "model",
        "forward returns something of type str",
        "leave it out",
    ),
    (
        torch.unique_consecutive,
        "translation",
        "only in part: unique_consecutive not implemented for other type",
        "another dtype",
    ),
    (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        "translation",
        "no type for torch.quint8",
        "another dtype",
    ),
]
ROWS = [*QUICK, *(pytest.param(*row, marks=slow) for row in REST)]


@pytest.mark.parametrize(("forward", "owner", "words", "advice"), ROWS)
def test_a_refusal_has_an_owner_a_cause_a_line_and_a_remedy(forward, owner, words, advice):
    verdict = verdict_of(forward)
    assert verdict.failure == "ExportRefused"
    (cause,) = verdict.diagnosis.causes
    assert verdict.diagnosis.owner == owner, verdict.reason
    assert words in cause.text
    assert advice in cause.remedy
    if isinstance(forward, nn.Module):
        assert verdict.where.line == type(forward).forward.__code__.co_firstlineno + 1


def with_nan(x):
    return torch.where(x > 0.8, torch.nan, x)


def distances(x, p):
    i, j = torch.triu_indices(len(x), len(x), 1)
    return (x[i] - x[j]).abs().pow(p).sum(-1).pow(1 / p)


# An operator that the exporter has no translation of, and the remedy of its row, written out.
REPLACED = {
    r"aten\._cdist_forward": (
        lambda x: torch.cdist(x, x + 1, 1),
        lambda x: (x[..., None, :] - (x + 1)[..., None, :, :]).abs().pow(1).sum(-1).pow(1 / 1),
    ),
    r"aten\._pdist_forward": (lambda x: F.pdist(x, 3), lambda x: distances(x, 3)),
    r"aten\.kthvalue": (
        lambda x: x.kthvalue(2, 1)[0],
        lambda x: x.topk(2, 1, largest=False).values.select(1, -1),
    ),
    r"aten\.median default": (
        lambda x: x.median(),
        lambda x: x.flatten().topk((x.numel() + 1) // 2, largest=False).values[-1],
    ),
    r"aten\.median dim": (
        lambda x: x.median(-1)[0],
        lambda x: x.sort(-1).values.select(-1, (x.shape[-1] - 1) // 2),
    ),
    r"aten\.nanmedian default": (
        lambda x: with_nan(x).nanmedian(),
        lambda x: (
            torch.where(with_nan(x).isnan(), torch.inf, with_nan(x))
            .flatten()
            .sort()
            .values.gather(0, (~with_nan(x).isnan()).sum()[None].sub(1) // 2)[0]
        ),
    ),
    r"aten\.nanmedian dim": (
        lambda x: with_nan(x).nanmedian(1)[0],
        lambda x: (
            torch.where(with_nan(x).isnan(), torch.inf, with_nan(x))
            .sort(1)
            .values.gather(1, (~with_nan(x).isnan()).sum(1, keepdim=True).sub(1) // 2)
            .squeeze(1)
        ),
    ),
    r"aten\.searchsorted Tensor": (
        lambda x: torch.searchsorted(x.cumsum(1), x),
        lambda x: (x.cumsum(1)[..., None, :] < x[..., None]).sum(-1),
    ),
    r"aten\.searchsorted Scalar": (
        lambda x: torch.searchsorted(x[0].cumsum(0), 0.3, right=True),
        lambda x: (x[0].cumsum(0) <= 0.3).sum(),
    ),
    r"aten\.index_reduce": (
        lambda x: x.index_reduce(0, torch.tensor([0, 0]), x[:2], "prod"),
        lambda x: x.scatter_reduce(0, torch.tensor([0, 0])[:, None].expand(2, 4), x[:2], "prod"),
    ),
    r"aten\.put": (
        lambda x: x.put(torch.tensor([5]), torch.tensor([1.0]), accumulate=True),
        lambda x: x.flatten().index_add(0, torch.tensor([5]), torch.tensor([1.0])).view(x.shape),
    ),
    r"aten\._foreach_\w+": (
        lambda x: torch._foreach_add([x, x], 1)[0],
        lambda x: torch.stack([each + 1 for each in [x, x]])[0],
    ),
    r"aten\.adaptive_max_pool\dd": (
        lambda x: F.adaptive_max_pool2d(x[None, None], (2, 3)),
        lambda x: F.max_pool2d(x[None, None], (2, 2), (2, 1)),
    ),
    r"aten\.randperm": (
        lambda x: x[torch.randperm(4)],
        lambda x: x[torch.rand(4).topk(4).indices],
    ),
    r"aten\.sort": (
        lambda x: x.sort(dim=1, stable=True)[0],
        lambda x: x.topk(x.shape[1], 1, largest=False).values,
    ),
}
WORDS_ONLY = ("prims", "linalg", "sparse")  # remedies that are no operators of ONNX


def test_every_replacement_is_tried():
    rest = [key for key in INSTEAD if key not in REPLACED]
    assert all(any(word in key for word in WORDS_ONLY) for key in rest)
    assert set(REPLACED) <= set(INSTEAD)


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("key", [key for key in REPLACED if "randperm" not in key])
def test_the_replacement_gives_the_same_numbers(key):
    bad, good = REPLACED[key]
    for seed in range(5):
        x = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(bad(x), good(x))


@slow
@pytest.mark.parametrize("key", REPLACED)
def test_the_exporter_takes_the_replacement_and_not_the_operator(key):
    bad, good = REPLACED[key]
    verdict = verdict_of(bad)
    assert verdict.failure == "ExportRefused"
    assert verdict.diagnosis.causes[0].remedy == INSTEAD[key]
    found = verdict_of(good)
    assert found.failure != "ExportRefused", found.reason


@slow
def test_the_older_exporter_names_the_opset_that_has_an_operator():
    options = {"onnx_legacy": {"opset_version": 15}}

    verdict = verdict_of(sampled, "onnx_legacy", export_options=options)
    (cause,) = verdict.diagnosis.causes
    assert "from opset 16 on" in cause.text
    assert '"opset_version": 16' in cause.remedy
    found = verdict_of(
        sampled, "onnx_legacy", export_options={"onnx_legacy": {"opset_version": 16}}
    )
    assert found.failure != "ExportRefused", found.reason


def refused(forward, target="onnx", varies=False, **options):
    """What the target's exporter raises."""
    given = forward if isinstance(forward, nn.Module) else module(forward)
    subject = copy.deepcopy(given).eval()  # some change themselves
    x = torch.rand(4, 4)
    spec = spec_of(subject.forward, x, shapes={"x": "rows 4" if varies else "..."})

    def export():
        with quiet("cpu"), suppress_output(), torch.no_grad():
            targets.get(target).export(subject, Call((x,), {}), spec, **options)

    return refusal(export)


class Grows(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.register_buffer("table", torch.zeros(size, 4))

    def forward(self, x):
        if self.table.shape[0] < x.shape[0]:
            self.table = torch.arange(x.shape[0]).float()[:, None].expand(-1, 4).cos()
        return x + self.table[: x.shape[0]]


def writes_into_a_diagonal(x):
    y = x.clone()
    y.diagonal().copy_(x[0])
    return y


def multiplies_sparse(x):
    return torch.mm(x.to_sparse(), x)


def makes_a_layer(x):
    return nn.Linear(4, 4)(x)


def transforms(x):
    return torch.fft.fft(x).real


def file_without_a_kernel():
    """A session of a file, of which nobody says what the node takes."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    x, y = (helper.make_tensor_value_info(name, TensorProto.DOUBLE, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=10)
    InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


@slow
@pytest.mark.parametrize("size", [0, 2])
def test_a_tensor_of_another_size_in_a_buffers_place_is_told(size):
    (cause,) = diagnosed(refused(Grows(size), varies=True).error, "onnx").causes
    assert "a tensor of another size" in cause.text
    assert cause.where.text.startswith("self.table = ")


@slow
def test_every_rule_is_shown():
    shown = [refused(row[0]) for row in [*QUICK, *REST]]
    shown += [refused(bad) for bad, _ in REPLACED.values()]
    shown += [refused(bad) for bad in (writes_into_a_diagonal, multiplies_sparse, makes_a_layer)]
    shown += [refused(Grows(), varies=True), refusal(file_without_a_kernel)]
    shown += [refused(transforms, "onnx_legacy"), refused(sampled, "onnx_legacy", opset_version=15)]
    assert silent(RULES, shown) == []


class OfTorchScript(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.jit.script(nn.Linear(4, 4))

    def forward(self, x):
        return self.part(x)


class Registers(nn.Module):
    def forward(self, x):
        self.register_buffer("offset", x.mean(0))
        return x - self.offset


class WithExtraState(nn.Linear):
    def forward(self, x):
        return super().forward(x)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Kept:
    def __init__(self, value):
        self.value = value


def double_by_argument(x):
    out = torch.empty_like(x)
    torch.mul(x, 2, out=out)
    return out


OLDER = [
    (OfTorchScript(), "capture", "no TorchScript module (Linear) inside"),
    (torch.ops.refused.onnx, "translation", "no translation of refused::onnx"),
    (double_by_argument, "translation", "does not take these arguments of mul: mul() takes 3"),
    (lambda x: (x > 0).int() | 2, "translation", "only in part: ONNX export does NOT support"),
    (lambda x: (x * 1j).abs(), "translation", "no complex tensors"),
    (Kept, "model", "an object of Kept"),
    (Registers(), "model", "makes parameters or buffers"),
    (WithExtraState(4, 4), "translation", "the state_dict holds something of type dict"),
]


@pytest.mark.parametrize(("forward", "owner", "words"), OLDER)
def test_a_refusal_of_the_older_exporter_is_told(forward, owner, words):
    found = diagnosed(refused(forward, "onnx_legacy").error, "onnx_legacy")
    (cause,) = found.causes
    assert words in cause.text
    assert found.owner == owner
    assert cause.remedy


def test_every_rule_of_the_older_exporter_is_shown():
    assert silent(LEGACY, (refused(row[0], "onnx_legacy") for row in OLDER)) == []
