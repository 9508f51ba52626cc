"""Examine a subject with preflight, for the tests of eager/preflight.py."""

from __future__ import annotations

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.config.options import Options
from pytest_torchexport.eager.preflight import Findings, examine
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.outcomes.subject import Subject


def findings(thing, *args, mode="eval", seed=0, complete=True, **kwargs):
    if isinstance(thing, nn.Module) and mode == "eval":
        thing.eval()
    subject, call = Subject.of(thing), Call(args, kwargs)
    spec = build_spec(subject.signature(), [call], Options(), {})
    found = examine(subject, call, seed, [leaf.path for leaf in spec.leaves])
    assert found.complete is complete
    return found


def silent(found, *ignored):
    """Whether there is nothing to say but in the fields that are ignored."""
    empty = Findings()
    return {
        item.name: getattr(found, item.name)
        for item in fields(Findings)
        if item.name not in (*ignored, "complete")
        and getattr(found, item.name) != getattr(empty, item.name)
    } == {}


class Healthy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm1d(4)
        self.drop = nn.Dropout()
        self.register_buffer("scale", torch.ones(1))
        self.sizes = [1, 2]

    def forward(self, x):
        return self.drop(F.relu(self.bn(self.conv(x)))) * self.scale
