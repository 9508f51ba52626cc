"""OpenVINO, by way of the ONNX file of the target ``onnx``."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import targets
from pytest_torchexport.targets import Call, MadeOf, NotApplicable, TargetTraits


@dataclass(frozen=True)
class Artifact:
    program: Any
    onnx: Any
    run: Any
    facts: Any
    module = None
    native_loops = False
    baked = ()

    def __call__(self, *args, **kwargs):
        return self.unpack_outputs(self.run(*self.pack_inputs(Call(args, kwargs)).args))

    def save(self, directory):
        import openvino

        openvino.save_model(self.program, str(directory / "model.xml"), compress_to_fp16=False)
        return directory / "model.xml"

    def pack_inputs(self, call):
        return Call(tuple(self.onnx.pack_inputs(call).kwargs.values()))

    def unpack_outputs(self, value):
        return self.onnx.unpack_outputs(value)

    def made_of(self):
        return MadeOf("ONNX", self.onnx, "translation"), MadeOf("OpenVINO", self, "runtime")


class OpenVino:
    traits = TargetTraits(specializes_0_1=True, leaves_out_casts=("cpu",))

    def unavailable(self, device):
        missing = importlib.util.find_spec("openvino") is None or device != "cpu"
        return targets.get("onnx").unavailable("cpu") or (
            "pip install openvino" if missing else None
        )

    def export(self, module, example, spec, *, precision="f32", **options):
        import openvino

        made = targets.get("onnx").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        with tempfile.TemporaryDirectory() as directory:
            model = openvino.Core().read_model(made.save(Path(directory)))
        facts = replace(made.facts, precision={"bf16": "bfloat16"}.get(precision, ""))
        return Artifact(model, made, self.load(model, "cpu", precision), facts)

    def load(self, path, _device, precision="f32"):
        import openvino

        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})

        def run(*given):
            found = compiled([tensor.detach().numpy() for tensor in given])
            return [torch.from_numpy(each.copy()) for each in found.to_tuple()]

        return run
