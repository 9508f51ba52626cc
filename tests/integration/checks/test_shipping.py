"""checks/shipping.py: what passed is shipped, what did not is not, nor what passed before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.results import manifest


class Frozen(nn.Module):
    """A trace keeps the branch that the example took."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


@pytest.fixture
def check(tmp_path):
    def run(module, **options):
        return check_export(
            module,
            (torch.ones(2, 3),),
            target="trace",
            max_examples=3,
            ship=str(tmp_path / "to/ship"),
            **options,
        )

    return run


def test_the_files_that_passed_are_shipped_until_a_check_fails(check, tmp_path):
    place = tmp_path / "to/ship"
    assert check(nn.Hardtanh()).failure is None
    assert check(nn.ReLU(), shapes={"input": "batch 3"}, dims={"batch": (1, 5)}).failure is None
    judged = manifest.read((place / manifest.NAME).read_text())
    assert (judged.subject, judged.status, judged.file) == ("ReLU", "passed", "model.pt")
    assert judged.sizes == {"batch": manifest.Sizes(low=1, high=5)}
    assert not list(manifest.differences(judged, manifest.files_in(place)))
    loaded = torch.jit.load(place / judged.file)
    assert torch.equal(loaded(-torch.ones(1, 3)), torch.zeros(1, 3))
    assert check(Frozen()).failure == "BranchFrozen"
    assert list(place.parent.iterdir()) == []


def test_a_folder_of_somebody_else_is_left_alone(check, tmp_path):
    (tmp_path / "to/ship").mkdir(parents=True)
    (tmp_path / "to/ship/thesis.tex").touch()
    verdict = check(nn.Identity())
    assert (verdict.status, verdict.failure) == ("failed", "SpecError")
    assert "has files that no check has shipped" in verdict.reason
    assert (tmp_path / "to/ship/thesis.tex").exists()


def test_without_a_file_that_was_judged_nothing_is_shipped(check, tmp_path):
    verdict = check(Frozen(), checks=("dims",))
    assert verdict.status == "passed"
    assert any("not shipped: no file was judged" in line for line in verdict.cautions)
    assert not (tmp_path / "to/ship").exists()
