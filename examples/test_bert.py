"""A small BERT with varying batch and sequence length; made from a config, without a download."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", reason="needs transformers")


class Encoder(nn.Module):
    """Takes tensors and returns one tensor, as a serving stack expects."""

    def __init__(self):
        super().__init__()
        config = transformers.BertConfig(
            vocab_size=100,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
        self.bert = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.bert(input_ids, attention_mask=attention_mask).last_hidden_state


# The plugin infers the legal ids from the embedding that they feed. It keeps the mask 0/1 with at
# least one 1 in each row. It cannot infer that there are only 64 positions, so `dims` declares it.
@pytest.mark.torchexport(
    "trace",
    "export",
    "onnx",
    shapes={"input_ids": "batch sequence", "attention_mask": "batch sequence"},
    dims={"batch": (1, 8), "sequence": (1, 64)},
    max_examples=25,
)
def test_bert():
    input_ids = torch.randint(0, 100, (2, 7))
    attention_mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    hidden = Encoder().eval()(input_ids, attention_mask)
    assert hidden.shape == (2, 7, 16)
