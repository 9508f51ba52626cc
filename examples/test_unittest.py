"""Mark ``unittest`` methods. pytest cannot parametrize them: all targets run after the body."""

from __future__ import annotations

import unittest

import pytest
import torch
from torch import nn


@pytest.mark.torchexport("trace", "script", "export", "onnx", dims={"batch": (1, 8)})
class LinearTest(unittest.TestCase):
    def setUp(self):
        self.model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())

    def test_shape(self):
        self.assertEqual(self.model(torch.randn(2, 6)).shape, (2, 4))

    def test_is_not_negative(self):
        self.assertTrue((self.model(torch.randn(5, 6)) >= 0).all())
