"""Print what a marked test of a real model costs: `python benchmarks/real_models.py [NAME ...]`.

The models are built from configurations; nothing is downloaded. Two tests of each run in turn, each
in a pytest of its own: a marked one with all targets that export the model, and one as a user would
write it, which exports to the same targets, loads each file in a fresh interpreter and compares 20
calls. Goals are printed and not asserted.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
BENCHMARKS = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "tests")]

import torch
from common import exported, peak_memory, table
from real.models import Pixels, Text, calibrate, stub_torchvision
from torch import Tensor, nn

CALLS = 20
# Of fewer megabytes of weights, the memory for everything else would hide their share.
ENOUGH = 40

# -- models ----------------------------------------------------------------------------------------

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Tokens(nn.Module):
    """A language model of transformers: it takes token ids and returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class Speech(nn.Module):
    """A speech model of transformers: it takes a spectrogram and token ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_features: Tensor, decoder_input_ids: Tensor) -> Tensor:
        output = self.model(
            input_features=input_features, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return output.last_hidden_state


class Boxes(nn.Module):
    """A detection model of torchvision: it takes one image and returns three tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model([image])
        if torch.jit.is_scripting():
            found = found[1]
        return found[0]["boxes"], found[0]["scores"], found[0]["labels"]


def twice(channels: int, width: int) -> nn.Sequential:
    """Return two convolutions with their norms."""
    layers: list[nn.Module] = []
    for given in (channels, width):
        convolution = nn.Conv2d(given, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        steps = list(zip(widths, widths[1:], strict=False))
        self.first = twice(3, widths[0])
        self.down = nn.ModuleList(twice(less, more) for less, more in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(more, less, 2, 2) for less, more in steps[::-1])
        self.join = nn.ModuleList(twice(2 * less, less) for less, _ in steps[::-1])
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(nn.functional.max_pool2d(x, 2))
        for up, join in zip(self.up, self.join):  # noqa: B905  # TorchScript has no strict=
            x = join(torch.cat([skips.pop(), up(x)], 1))
        return self.last(x)


def resnet18() -> Built:
    from torchvision.models import resnet18

    return resnet18(weights=None), (torch.randn(2, 3, 224, 224),)


def detection() -> Built:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    # As built, all scores tie, and which boxes are left is arbitrary.
    calibrate(model, ([torch.rand(3, 320, 320) for _ in range(16)],))
    return Boxes(model), (torch.rand(3, 320, 320),)


def vit() -> Built:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    return Pixels(ViTModel(config, add_pooling_layer=False)), (torch.randn(2, 3, 224, 224),)


def bert() -> Built:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    ids = torch.randint(0, config.vocab_size, (2, 16))
    model = Text(BertModel(config, add_pooling_layer=False), "last_hidden_state")
    return model, (ids, torch.ones_like(ids))


def llama() -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return Tokens(LlamaForCausalLM(config)), (torch.randint(0, 64, (2, 9)),)


def whisper() -> Built:
    from transformers import WhisperConfig, WhisperModel

    of_both = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}
    parts = {f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in of_both.items()}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(d_model=64, max_source_positions=100, vocab_size=200, **parts, **tokens)
    example = torch.randn(2, config.num_mel_bins, 200), torch.randint(0, 200, (2, 5))
    return Speech(WhisperModel(config)), example


ALL = ("trace", "script", "export", "onnx")


@dataclass(frozen=True)
class Model:
    """How to build a model, and the targets that export it."""

    raw: Callable[[], Built]
    targets: tuple[str, ...] = ALL
    goal: int = 60  # seconds of the marked test
    # Further arguments of the marker, for a model whose first dim is not a batch.
    options: dict[str, Any] = field(default_factory=dict)
    # What a process has to import before it loads a file.
    imports: tuple[str, ...] = ()

    def build(self) -> Built:
        """Return the model in eval mode and its example, the same each time."""
        stub_torchvision()
        torch.manual_seed(0)
        module, example = self.raw()
        return module.eval(), example


NOT_SCRIPT = ("trace", "export", "onnx")
MODELS = {
    "ResNet-18": Model(resnet18),
    "U-Net": Model(lambda: (UNet(), (torch.randn(2, 3, 128, 128),))),
    "ViT": Model(vit, NOT_SCRIPT),
    "BERT": Model(bert, NOT_SCRIPT),
    "Llama": Model(llama, NOT_SCRIPT, goal=15),
    "Whisper": Model(whisper, NOT_SCRIPT),
    "SSDlite": Model(
        detection,
        # torch.export refuses a condition on the number of boxes.
        ("trace", "script"),
        options={"shapes": {"image": "3 320 320"}},
        imports=("torchvision",),
    ),
}


# -- tests -----------------------------------------------------------------------------------------

TESTS = """
import json, pathlib, sys
import pytest, torch
sys.path.insert(0, {benchmarks!r})
import real_models

model = real_models.MODELS[{name!r}]

@pytest.mark.torchexport(*model.targets, **model.options)
def test_marked():
    module, example = model.build()
    module(*example)

@pytest.mark.torchexport(*model.targets)
def test_without_weights():
    model.build()  # for all that it imports
    torch.nn.Linear(2, 2)(torch.ones(2, 2))

@pytest.mark.parametrize("target", model.targets)
def test_by_hand(target):
    spent = real_models.by_hand(model, target)
    pathlib.Path(target).with_suffix(".json").write_text(json.dumps(spent))
"""
LOAD = {
    "trace": "import sys, torch; torch.jit.load(sys.argv[1])",
    "script": "import sys, torch; torch.jit.load(sys.argv[1])",
    "export": "import sys, torch; torch.export.load(sys.argv[1]).module()",
    "onnx": "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])",
}


def by_hand(model: Model, target: str) -> dict[str, float]:
    """Export a model, load its file in another process, and compare calls; return the seconds."""
    module, example = model.build()
    calls, dynamic = [example], None
    if not model.options:
        calls = [tuple(torch.cat([x, x])[:size] for x in example) for size in range(1, 5)]
        names = inspect.signature(module.forward).parameters
        dynamic = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    start = time.perf_counter()
    file = Path("model.pt2" if target == "export" else f"model.{target}")
    artifact = exported(module, example, dynamic, target, file)
    saved = time.perf_counter()
    code = "".join(f"import {name}; " for name in model.imports) + LOAD[target]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, file], check=True)
    loaded = time.perf_counter()
    with torch.no_grad():
        for number in range(CALLS):
            call = calls[number % len(calls)]
            found, expected = artifact(*call), module(*call)
            found = found if isinstance(expected, tuple) or target != "onnx" else found[0]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    end = time.perf_counter()
    return {"export": saved - start, "load": loaded - saved, "forwards": end - loaded}


# -- table -----------------------------------------------------------------------------------------


def rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Run both tests of a model; yield a row for each target, and one for all."""
    model = MODELS[name]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        text = TESTS.format(benchmarks=str(BENCHMARKS), name=name)
        Path(place, "test_real.py").write_text(text)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"]
        plugin = [
            *("-o", f"torchexport_runtime_imports={' '.join(model.imports)}"),
            "--torchexport-report=json:report.json",
        ]

        def seconds(*arguments: str) -> float:
            start = time.perf_counter()
            # If a test fails, the table says so.
            command = [*pytest, *arguments]
            subprocess.run(command, cwd=place, check=False, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        marked = seconds("marked", *plugin)
        hand = seconds("by_hand", "-p", "no:torchexport")
        for item in json.loads(Path(place, "report.json").read_text())["items"]:
            file = Path(place, f"{item['target']}.json")
            mine = item["verdicts"][0] if item["verdicts"] else {"seconds": {}, **item}
            yield (
                name,
                item["target"],
                stages(json.loads(file.read_text())) if file.exists() else "failed",
                " ".join(filter(None, (mine.get("failure"), stages(mine["seconds"])))),
            )
        size = sum(weight.nbytes for weight in model.build()[0].parameters()) / 2**20
        memory = "n/a"
        if size >= ENOUGH:
            peaks = [
                peak_memory([*pytest, test, *plugin], cwd=place)
                for test in ("marked", "without_weights")
            ]
            memory = f"{(peaks[0] - peaks[1]) / size:.2f}"
        yield (
            name,
            "all, whole pytest",
            f"{hand:.1f} s",
            f"{marked:.1f} s (goal {model.goal}), {marked / hand:.2f} of by hand (goal 1.5), "
            f"memory / {size:.0f} MB of weights {memory} (goal 2.5)",
        )


def stages(spent: dict[str, float]) -> str:
    """Return the sum of seconds and its parts; the search is within the stage of parity."""
    whole = sum(spent.values()) - spent.get("search", 0.0)
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in spent.items())
    return f"{whole:.1f} s ({parts})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="default: all")
    names = parser.parse_args().names or list(MODELS)
    if stub_torchvision() and "SSDlite" in names:
        names.remove("SSDlite")
        print("SSDlite is left out: the operators of torchvision do not load here.\n")
    print(table(("model", "target", "by hand", "marked")))
    for row in itertools.chain.from_iterable(map(rows, names)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
