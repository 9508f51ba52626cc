"""Subjects that only hold a module: checking them changes nothing of the user's."""

from __future__ import annotations

import functools

import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.subject import Subject, closed_over


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, scale=1.0):
        return self.norm(x) * scale


class Service:
    """An ordinary object with a module in it."""

    def __init__(self):
        self.net = Normed().train()

    def predict(self, x):
        return self.net(x)


X = torch.randn(4, 3)


def tracked(net):
    return int(net.norm.num_batches_tracked)


def test_a_partial_is_copied_with_its_module():
    net = Normed().train()
    subject = Subject.of(functools.partial(net, scale=2.0))
    copied = subject.copy()
    assert copied.module is not net
    assert copied.function.keywords == {"scale": 2.0}
    assert copied.function.func is copied.module


def test_checking_a_partial_leaves_its_module_alone():
    net = Normed().train()
    verdict = check_export(
        functools.partial(net, scale=2.0), (X,), target="export", checks=("parity",), max_examples=5
    )
    assert verdict.status == "passed", verdict.reason
    assert tracked(net) == 0
    assert net.training


def test_checking_a_method_of_a_plain_object_leaves_its_module_alone():
    service = Service()
    check_export(service.predict, (X,), target="trace", checks=("parity",), max_examples=5)
    assert tracked(service.net) == 0


def test_checking_a_closure_leaves_its_module_alone():
    net = Normed().train()

    def predict(x):
        return net(x)

    assert closed_over(predict) == [net]
    check_export(predict, (X,), target="trace", checks=("parity",), max_examples=5)
    assert tracked(net) == 0
