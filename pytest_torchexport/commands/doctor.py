"""The command ``doctor``: what is installed, what can be checked here, and what is to be done.

It has to work where something is missing, torch too: what may be missing is imported inside.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from pytest_torchexport import __version__, targets
from pytest_torchexport.commands import GREEN, RED, say
from pytest_torchexport.config import names, tested
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.results import reports
from pytest_torchexport.sandbox import kernel

PACKAGE = "pytest-torchexport"
DEVICES = ("cpu", "cuda")
OURS = f"pip install {PACKAGE}"
TORCH, ONNX = f"pip install '{PACKAGE}[torch]'", f"pip install '{PACKAGE}[onnx]'"
# The packages of the plugin itself and those of its extras, with what installs them.
NEEDED = {"torch": TORCH, **dict.fromkeys(("numpy", "hypothesis", "pytest"), OURS)}
EXTRA = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), ONNX)
# Of targets that are no default, which say themselves what installs it.
OPTIONAL = ("openvino", "executorch")
# Distributions that have the modules of another.
INSTEAD = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino")}


@dataclass(frozen=True)
class Finding:
    """One line. ``step``: what to do. ``lacks``: something that the defaults need is not there."""

    about: str
    text: str
    step: str = ""
    lacks: bool = False


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if the defaults need something more."""
    parser = argparse.ArgumentParser(
        program,
        description="Say what is installed, what can be checked here, and what to do about what "
        "cannot.",
        epilog="Exit status: 0 if all default targets can be checked on the CPU; 1 if something "
        "that they need is missing.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list the tested versions")
    verbose = parser.parse_args(arguments).verbose
    cannot = {device: _unusable(device) for device in DEVICES}
    sections = {
        "installed": list(_packages(cannot)),
        "devices": [
            Finding(device, f"cannot be used: {reason}" if reason else "can be used")
            for device, reason in cannot.items()
        ],
        "targets": list(_targets([device for device in DEVICES if cannot[device] is None])),
        "around": list(_around()),
    }
    findings = [each for those in sections.values() for each in those]
    width = max(len(each.about) for each in findings)
    for name, those in sections.items():
        say([name])
        for each in those:
            step = f"; next step: {each.step}" if each.step else ""
            say([f"  {each.about:<{width}}  {each.text}{step}"])
    if verbose:
        say(tested.table(tested.runs()))
    missing = dict.fromkeys(each.about for each in findings if each.lacks)
    said = f"the defaults need: {', '.join(missing)}" if missing else "all defaults can be checked"
    say([said])
    return RED if missing else GREEN


def _unusable(device: str) -> str | None:
    """Return why nothing can be checked on a device; None if it can be used."""
    try:
        from pytest_torchexport.outcomes.subject import unusable_device
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:
        return f"torch cannot be imported: {type(error).__name__}: {error}"
    return unusable_device(device)


def _packages(cannot: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield each package with its version, and whether the plugin's tests ran on it."""
    versions = reports.environment()
    yield Finding("python", versions["python"])
    yield Finding(PACKAGE, __version__)
    for name, install in (NEEDED | EXTRA).items():
        given = (versions.get(other) for other in (name, *INSTEAD.get(name, ())))
        version = next(filter(None, given), None)
        if version is None:
            yield Finding(name, "not installed", step=install, lacks=True)
        else:
            yield Finding(name, version)
    yield from (Finding(name, versions[name]) for name in OPTIONAL if name in versions)
    if "torch" in versions:
        devices = [device for device in DEVICES if cannot[device] is None or device == DEVICES[0]]
        untested = tested.untested(versions, tested.runs(), devices)
        plain = "the plugin's own tests have run on these versions"
        yield Finding("versions", untested or plain)


def _targets(devices: Sequence[str]) -> Iterator[Finding]:
    """Yield each target with the devices on which it can be checked, and why not on others."""
    defaults = Settings().targets
    for name in names.targets():
        cannot = {}
        for device in devices:
            try:
                reason = targets.get(name).unavailable(device)
            except Exception as error:
                reason = f"it cannot be imported: {type(error).__name__}: {error}"
            if reason is not None:
                cannot[device] = reason
        can = [device for device in devices if device not in cannot]
        parts = [f"can be checked on {' and '.join(can)}" if can else "cannot be checked"]
        parts += [f"not on {device}: {reason}" for device, reason in cannot.items()]
        yield Finding(
            name,
            "; ".join(parts if name in defaults else [*parts, "off by default"]),
            lacks=name in defaults and DEVICES[0] not in can,
        )


def _around() -> Iterator[Finding]:
    """Yield findings about pytest and the machine."""
    if not metadata.entry_points(group="pytest11").select(name="torchexport"):
        yield Finding("pytest", "does not know the plugin", step=OURS, lacks=True)
    elif os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        text = "loads no plugin by itself: PYTEST_DISABLE_PLUGIN_AUTOLOAD is set"
        yield Finding("pytest", text, step="pytest -p pytest_torchexport.plugin")
    else:
        yield Finding("pytest", "loads the plugin")
    if sys.platform == "linux" and kernel.landlock_version() > 0:
        text = "a file that others made is checked in a process that can reach no other files"
        yield Finding("check_artifact", f"{text} (by Linux's Landlock)")
    else:
        text = "code in a file that others made can reach all your files: there is no Landlock"
        yield Finding("check_artifact", text, step="check such files in a container")
    if os.environ.get("PYTORCH_JIT") == "0":
        text = "PYTORCH_JIT=0: trace and script make no program"
        yield Finding("torch.jit", text, step="unset PYTORCH_JIT", lacks=True)
