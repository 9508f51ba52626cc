"""targets/draft.py: what torch.export would refuse next, by torch.export.draft_export."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.judge import log
from pytest_torchexport.outcomes.fork import FORKS
from pytest_torchexport.results.text import failure_text

LIBRARY = torch.library.Library("drafted", "DEF")
LIBRARY.define("plain(Tensor x) -> Tensor")
LIBRARY.impl("plain", lambda x: x.clone(), "CPU")

needs_draft = pytest.mark.skipif(
    not hasattr(torch.export, "draft_export"), reason="this torch has no draft_export"
)


class Several(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # first
            x = x + 1
        y = torch.ops.drafted.plain(x)
        return y * int(y.sum())  # third


class FromValues(nn.Module):
    def forward(self, x):
        y = x[x > 0.5]
        if y.shape[0] > 2:
            return y.sum()
        return y.sum() * 2


@needs_draft
def test_a_refusal_names_the_next_ones_too():
    before = set(Path(tempfile.gettempdir()).glob("export_*"))
    verdict = check_export(Several(), (torch.rand(3, 4),), target="export", checks="parity")
    (cause,) = verdict.diagnosis.causes
    assert cause.where.text == "if x.sum() > 0:  # first"
    kernel, number = cause.details
    assert kernel == "the next refusal: drafted.plain.default has no fake kernel"
    assert number.endswith("return y * int(y.sum())  # third")
    assert number.startswith("the next refusal: ")
    assert kernel in failure_text(verdict)
    assert set(Path(tempfile.gettempdir()).glob("export_*")) == before


@needs_draft
def test_a_draft_that_fails_too_changes_nothing_else(monkeypatch):
    def refuses(*args, **options):
        raise ValueError("no draft")

    monkeypatch.setattr(torch.export, "draft_export", refuses)
    verdict = check_export(FromValues(), (torch.rand(3, 4),), target="export", checks="parity")
    (cause,) = verdict.diagnosis.causes
    assert cause.kind == "data-dependent value"
    assert verdict.diagnosis.not_examined == ("draft of the export: raised ValueError: no draft",)


@needs_draft
@pytest.mark.skipif(not FORKS, reason="without fork, it would not return")
def test_a_draft_that_swallows_its_interrupt_ends_in_time(monkeypatch):
    def blocks(*args, **options):
        while True:
            with suppress(BaseException):
                time.sleep(60)

    monkeypatch.setattr(torch.export, "draft_export", blocks)
    monkeypatch.setattr(log, "DIAGNOSIS", 0.2)
    verdict = check_export(
        FromValues(),
        (torch.rand(3, 4),),
        target="export",
        checks="parity",
    )
    (left,) = verdict.diagnosis.not_examined
    assert left.startswith("draft of the export: did not return within ")


def test_a_torch_without_drafts_has_none(monkeypatch):
    monkeypatch.delattr(torch.export, "draft_export", raising=False)
    verdict = check_export(Several(), (torch.rand(3, 4),), target="export", checks="parity")
    assert verdict.diagnosis.causes[0].details == ()
    assert verdict.diagnosis.not_examined == ()
