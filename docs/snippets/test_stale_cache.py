import pytest
import torch
from torch import nn


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.key, self.head = nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, x, past):
        keys = torch.cat([past, self.key(x)], dim=1)
        return self.head((x @ keys.transpose(1, 2)).softmax(-1) @ keys), keys


# --8<-- [start:server]
class AsServed:
    """Stands for a server that keeps the last 10 positions of the cache, and no more."""

    def __init__(self, step):
        self.step = step

    def __call__(self, x, past):
        logits, keys = self.step(x, past)
        return logits, keys[:, -10:]


@pytest.mark.torchexport("trace")
def test_server(torchexport):
    decoder, inputs = Decoder().eval(), torch.randn(31, 1, 1, 8)
    torchexport.check_loop(
        decoder,
        *(torch.randn(1, 1, 8), torch.randn(1, 4, 8)),
        carry={"output[1]": "past"},
        feed={"x": inputs},
        artifact=AsServed(decoder),
    )


# --8<-- [end:server]
