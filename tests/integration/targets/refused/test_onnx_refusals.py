"""targets/refused/onnx_refusals.py: what ONNX's exporters and ONNX Runtime refuse, and what they take."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.targets.refused.onnx_refusals import INSTEAD
from tests.slow import slow

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


# An operator that the exporter has no translation of, and the remedy of its row, written out.
REPLACED = {
    r"aten\.(?:_cdist_forward|_pdist_forward)": (
        lambda x: torch.cdist(x, x + 1),
        lambda x: (x[:, None] - (x + 1)[None]).pow(2).sum(-1).sqrt(),
    ),
    r"aten\.kthvalue": (
        lambda x: x.kthvalue(2, 1)[0],
        lambda x: x.topk(2, 1, largest=False).values.select(1, -1),
    ),
    r"aten\.(?:median|nanmedian)": (
        lambda x: x.median(),
        lambda x: x.flatten().topk((x.numel() + 1) // 2, largest=False).values[-1],
    ),
    r"aten\.searchsorted": (
        lambda x: torch.searchsorted(torch.tensor([0.1, 0.5]), x),
        lambda x: (torch.tensor([0.1, 0.5]) < x[..., None]).sum(-1),
    ),
    r"aten\.index_reduce": (
        lambda x: x.index_reduce(0, torch.tensor([0, 0]), x[:2], "prod"),
        lambda x: x.scatter_reduce(0, torch.tensor([0, 0])[:, None].expand(2, 4), x[:2], "prod"),
    ),
    r"aten\.put": (
        lambda x: x.put(torch.tensor([5]), torch.tensor([1.0])),
        lambda x: x.flatten().index_copy(0, torch.tensor([5]), torch.tensor([1.0])).view(x.shape),
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

    def forward(x):
        return F.grid_sample(x[None, None], x[None, :, :2][:, None])

    verdict = verdict_of(forward, "onnx_legacy", export_options=options)
    (cause,) = verdict.diagnosis.causes
    assert "from opset 16 on" in cause.text
    assert '"opset_version": 16' in cause.remedy
    found = verdict_of(
        forward, "onnx_legacy", export_options={"onnx_legacy": {"opset_version": 16}}
    )
    assert found.failure != "ExportRefused", found.reason
