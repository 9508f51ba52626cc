"""Print what marked tests of real models cost: `python benchmarks/real_models.py [NAME ...]`.

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
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
from common import peak_memory, table
from real.models import Pixels, Text, stub_torchvision
from run import of_children
from torch import Tensor, nn

ALL = ("trace", "script", "export", "onnx")
Built = tuple[nn.Module, tuple[Tensor, ...]]

# -- models ----------------------------------------------------------------------------------------


class Around(nn.Module):
    """A model as deployed: subclasses take tensors and return tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Tokens(Around):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class Speech(Around):
    def forward(self, input_features: Tensor, decoder_input_ids: Tensor) -> Tensor:
        given = {"input_features": input_features, "decoder_input_ids": decoder_input_ids}
        return self.model(**given, use_cache=False).last_hidden_state


class Boxes(Around):
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
        steps = list(itertools.pairwise(widths))
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


def unet() -> Built:
    return UNet(), (torch.randn(2, 3, 128, 128),)


def resnet18() -> Built:
    from torchvision.models import resnet18

    return resnet18(weights=None), (torch.randn(2, 3, 224, 224),)


def detection() -> Built:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.fill_(0.02)  # as built, all scores tie: any box may be the best
    return Boxes(model), (torch.rand(3, 320, 320),)


def vit() -> Built:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    return Pixels(ViTModel(config, add_pooling_layer=False)), (torch.randn(2, 3, 224, 224),)


def bert() -> Built:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}
    model = BertModel(BertConfig(**sizes, num_attention_heads=4), add_pooling_layer=False)
    ids = torch.randint(0, 30522, (2, 16))
    return Text(model, "last_hidden_state"), (ids, torch.ones_like(ids))


def llama() -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    return Tokens(model), (torch.randint(0, 64, (2, 9)),)


def whisper() -> Built:
    from transformers import WhisperConfig, WhisperModel

    model = WhisperModel(WhisperConfig(d_model=96, max_source_positions=100))
    return Speech(model), (torch.randn(2, 80, 200), torch.randint(0, 200, (2, 5)))


@dataclass(frozen=True)
class Model:
    """How to build a model, and the targets that export it."""

    raw: Callable[[], Built]
    targets: tuple[str, ...] = ALL
    goal: int = 60  # seconds of the marked test
    # The shape of an only call; else the first dim of each argument is a batch.
    shape: str = ""
    # What the process that loads a file has to import.
    imports: str = ""

    def build(self) -> Built:
        """Return the model in eval mode and its example, the same each time."""
        stub_torchvision()
        torch.manual_seed(0)
        module, example = self.raw()
        return module.eval(), example


NOT_SCRIPT = ("trace", "export", "onnx")
DETECTION = "SSDlite"
MODELS = {
    "ResNet-18": Model(resnet18),
    "U-Net": Model(unet),
    "ViT": Model(vit, NOT_SCRIPT),
    "BERT": Model(bert, NOT_SCRIPT),
    "Llama": Model(llama, NOT_SCRIPT, goal=15),
    "Whisper": Model(whisper, NOT_SCRIPT),
    # torch.export refuses its condition on the number of boxes.
    DETECTION: Model(detection, ("trace", "script"), shape="3 320 320", imports="torchvision"),
}

# -- tests -----------------------------------------------------------------------------------------

TESTS = """
import json, pathlib, sys
import pytest, torch
sys.path.insert(0, {benchmarks!r})
import real_models

model = real_models.MODELS[{name!r}]
shapes = {{"shapes": {{"image": model.shape}}}} if model.shape else {{}}

# Not in the body: to build a detector calls its backbone, which would be checked too.
@pytest.fixture
def built():
    return model.build()

@pytest.mark.torchexport(*model.targets, **shapes)
def test_marked(built):
    module, example = built
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
SETTINGS = """
[pytest]
addopts = -q -p no:cacheprovider --disable-warnings
torchexport_runtime_imports = {imports}
"""


def by_hand(model: Model, target: str) -> dict[str, float]:
    """Return the seconds of a test of a model that a user would write."""
    module, example = model.build()
    calls, dynamic = [example], None
    if not model.shape:
        calls = [tuple(torch.cat([x, x])[:size] for x in example) for size in (2, 1, 3, 4)]
        names = inspect.signature(module.forward).parameters
        dynamic = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    return common.by_hand(module, calls, dynamic, target, model.imports)


def rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Run both tests of a model; yield a row for each target, and one for all."""
    model = MODELS[name]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        tests = TESTS.format(benchmarks=str(Path(__file__).resolve().parent), name=name)
        Path(place, "test_real.py").write_text(tests)
        Path(place, "pytest.ini").write_text(SETTINGS.format(imports=model.imports))
        pytest = [sys.executable, "-m", "pytest"]

        def seconds(*arguments: str) -> tuple[float, float]:
            start, used = time.perf_counter(), of_children()
            # If an item fails, the table says so.
            subprocess.run([*pytest, *arguments], cwd=place, check=False, stdout=sys.stderr)
            return time.perf_counter() - start, of_children() - used

        marked = seconds("-k", "marked", "--torchexport-report=json:report.json")
        hand = seconds("-k", "by_hand", "-p", "no:torchexport")
        for item in json.loads(Path(place, "report.json").read_text())["items"]:
            spent = json.loads(Path(place, f"{item['target']}.json").read_text())
            (verdict,) = item["verdicts"]
            mine = f"{verdict['failure'] or ''} {stages(verdict['seconds'])}".strip()
            yield name, item["target"], stages(spent), mine
        memory, size = "n/a", sum(weight.nbytes for weight in model.build()[0].parameters()) / 2**20
        # Of fewer megabytes, the activations and all else would hide the weights.
        if size >= 40:
            with_them, without = (
                peak_memory([*pytest, "-k", test], cwd=place)
                for test in ("marked", "without_weights")
            )
            memory = f"{(with_them - without) / size:.2f}"
        wall, processor = (mine / other for mine, other in zip(marked, hand, strict=True))
        whole = (
            f"{marked[0]:.1f} s (goal {model.goal}), of the processor {marked[1]:.1f} s; "
            f"{wall:.2f} of by hand (goal 1.5), of the processor {processor:.2f}; "
            f"memory / {size:.0f} MB of weights: {memory} (goal 2.5)"
        )
        yield name, "whole", f"{hand[0]:.1f} s, of the processor {hand[1]:.1f} s", whole


def stages(spent: dict[str, float]) -> str:
    """Return the sum of seconds and its parts."""
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in spent.items())
    return f"{sum(spent.values()):.1f} s ({parts})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="default: all")
    names = parser.parse_args().names or list(MODELS)
    if stub_torchvision() and DETECTION in names:
        names.remove(DETECTION)
        print(f"{DETECTION} is left out: the operators of torchvision do not load here.\n")
    print(table(("model", "target", "by hand", "marked")))
    for row in itertools.chain.from_iterable(map(rows, names)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
