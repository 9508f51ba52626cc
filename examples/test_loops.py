"""Check a step in the loop that serves it: a cache, the state of an RNN, chunks of sound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

# torch's exporters emit warnings, and this suite turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore")


# --8<-- [start:decoder]
class Decoder(nn.Module):
    """One step of decoding: the ids of the new positions, and the cache of all before them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 50)

    def forward(self, ids, past: list[torch.Tensor]):
        x = self.embedding(ids)
        keys = torch.cat([past[0], self.key(x)], dim=1)
        values = torch.cat([past[1], self.value(x)], dim=1)
        seen = (
            torch.ones(ids.shape[1], keys.shape[1], device=ids.device).tril(past[0].shape[1]).bool()
        )
        scores = self.query(x) @ keys.transpose(1, 2) / 4
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.head(weights @ values), [keys, values]


def greedy(output):
    logits, _ = output
    return logits[:, -1:].argmax(dim=-1)


@pytest.mark.torchexport("export", "onnx")
def test_decoding(torchexport):
    ids, past = torch.tensor([[7]]), [torch.randn(1, 5, 16), torch.randn(1, 5, 16)]
    verdict = torchexport.check_loop(
        Decoder(),
        *(ids, past),  # the call of the first step
        carry={"output[1]": "past"},  # the second output is the next step's past
        feed={"ids": greedy},  # and what greedy makes of the output its ids
    )
    assert verdict.loop.steps == 32


# --8<-- [end:decoder]


# --8<-- [start:cached]
def test_cached_is_uncached():
    decoder, ids = Decoder().eval(), torch.randint(0, 50, (1, 12))
    empty = [torch.zeros(1, 0, 16), torch.zeros(1, 0, 16)]
    with torch.no_grad():
        whole, _ = decoder(ids, empty)
        past, steps = empty, []
        for one in ids.split(1, dim=1):
            logits, past = decoder(one, past)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)


# --8<-- [end:cached]


# --8<-- [start:rnn]
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x, state: tuple[torch.Tensor, torch.Tensor]):
        y, state = self.lstm(x, state)
        return {"tags": self.head(y), "state": state}


@pytest.mark.torchexport("export", "onnx")
def test_rnn(torchexport):
    zeros = torch.zeros(1, 2, 16)
    torchexport.check_loop(
        Tagger(),
        *(torch.randn(2, 1, 8), (zeros, zeros)),
        carry={"output['state']": "state"},
        feed={"x": [torch.randn(2, 1, 8) for _ in range(20)]},  # the inputs from step 2 on
    )


# --8<-- [end:rnn]


# --8<-- [start:chunks]
class Filter(nn.Module):
    """A causal convolution over chunks of sound, with the end of the chunk before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 9)

    def forward(self, chunk, left):
        sound = torch.cat([left, chunk], dim=-1)
        return self.conv(sound), sound[..., -8:]


@pytest.mark.torchexport("trace", "export", "onnx")
def test_chunks(torchexport):
    first, *others = torch.randn(1, 1, 160).split(16, dim=-1)
    torchexport.check_loop(
        Filter(),
        *(first, torch.zeros(1, 1, 8)),
        carry={"output[1]": "left"},
        feed={"chunk": others},
    )


# --8<-- [end:chunks]
