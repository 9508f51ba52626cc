"""Changes in torch and in ONNX's packages after which a zoo row has another truth.

The truth of a row (``expect``) is that of the versions in ``constraints.txt``. Where it differs on
other versions, ``elsewhere`` names the change and the truth there. ``docs/reference/compatibility.md``
lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement

from pytest_torchexport.results import reports


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change in another package, with the upstream issue, pull request or release note.

    ``versions``: those on which the truth is another one, as a requirement: ``"torch<2.12"``.
    ``words``: what the package does on these versions.
    """

    versions: str
    link: str
    words: str

    def applies(self, installed: Mapping[str, str]) -> bool:
        """Return True if the versions are among those that the change is about."""
        needed = Requirement(self.versions)
        found = installed.get(needed.name)
        return found is not None and needed.specifier.contains(found, prereleases=True)


INSTALLED = reports.environment()
Truth = Mapping[str, str | None]


def truth_on(
    installed: Mapping[str, str], expect: Truth, elsewhere: Mapping[Change, Truth]
) -> dict[str, str | None]:
    """Return the truth by target on these versions; of several changes, the last one decides."""
    found = dict(expect)
    for change, differing in elsewhere.items():
        if change.applies(installed):
            found |= differing
    return found


RNN_UNROLLED = Change(
    versions="torch<2.13",
    link="https://github.com/pytorch/pytorch/pull/184872",
    words="torch.onnx.export unrolls LSTM and GRU over the time steps of the example",
)
GUARDS_REFUSED = Change(
    versions="torch<2.10",
    link="https://github.com/pytorch/pytorch/pull/165820",
    words="torch.onnx.export refuses what it can check only when the model runs",
)
GRU_RESET = Change(
    versions="onnxscript<0.7",
    link="https://github.com/microsoft/onnxscript/issues/2852",
    words="torch.onnx.export writes a GRU that applies its reset gate before the linear map",
)
FUNCTION_TYPED = Change(
    versions="torch>=2.15",
    link="https://github.com/pytorch/pytorch/pull/196491",
    words="torch.jit.script refuses an autograd.Function, a property of which has a type with dots",
)
CALL_DEPTH = Change(
    versions="onnxruntime>=1.32",
    link="https://github.com/microsoft/onnxruntime/pull/32339",
    words="ONNX Runtime refuses local functions that call each other more than 100 deep",
)
NESTED_REFUSED = Change(
    versions="torch<2.10",
    link="https://github.com/pytorch/pytorch/pull/163773",
    words="torch.export refuses nn.TransformerEncoder with a padding mask and nested tensors",
)
WHILE_REFUSED = Change(
    versions="torch<2.11",
    link="https://github.com/pytorch/pytorch/pull/162645",
    words="torch.onnx.export refuses torch.while_loop",
)
NEGATIVE_LATE = Change(
    versions="onnxruntime<1.24",
    link="https://github.com/microsoft/onnxruntime/releases/tag/v1.24.1",
    words="ONNX Runtime finds a dim below zero only when it makes the tensor, in other words",
)
QUANTIZE_UNKNOWN = Change(
    versions="torch<2.13",
    link="https://github.com/pytorch/pytorch/issues/157729",
    words="torch.export refuses quantize_per_tensor, which has no kernel for fake tensors",
)
