"""torch_private/drafts.py: what draft_export went past is read from its log.

A test that fails here means that torch has changed: the docstring of the room says what to do.
"""

import pytest
import torch
from torch import nn

from pytest_torchexport.torch_private.drafts import draft_failures, drafts_recorded


@pytest.mark.skipif(not hasattr(torch.export, "draft_export"), reason="torch has no draft_export")
def test_what_a_draft_went_past_has_its_kind_and_its_line():
    class Branch(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x + 1
            return x

    with drafts_recorded():
        program = torch.export.draft_export(Branch(), (torch.ones(2),))
    ((kind, _, where),) = draft_failures(program)
    assert (kind, where.text) == ("DATA_DEPENDENT_ERROR", "if x.sum() > 0:")
    assert draft_failures(object()) == []
