"""The command ``doctor``: what is installed, what can be checked here, and what is to be done.

It has to work where something is missing, torch too: what may be missing is imported inside.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

from pytest_torchexport import __version__, targets
from pytest_torchexport.commands.shell import GREEN, RED, say
from pytest_torchexport.config import names, tested
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.results import reports
from pytest_torchexport.sandbox import kernel

PACKAGE = "pytest-torchexport"
DEVICES = ("cpu", "cuda")
OURS = f"pip install {PACKAGE}"
ONNX = f"pip install '{PACKAGE}[onnx]'"
# The packages of the plugin itself and those of its extra, with what installs them.
NEEDED = dict.fromkeys(("torch", "numpy", "hypothesis", "pytest"), OURS)
EXTRA = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), ONNX)
# A distribution that has the modules of another.
INSTEAD = {"onnxruntime": "onnxruntime-gpu"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line. ``step``: what to do. ``lacks``: something that the defaults need is not there."""

    about: str
    text: str
    step: str = ""
    lacks: bool = False

    def line(self, width: int) -> str:
        """Return the line, indented."""
        step = f"; next step: {self.step}" if self.step else ""
        return f"  {self.about:<{width}}  {self.text}{step}"


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if the defaults need something more."""
    argparse.ArgumentParser(
        program,
        description="Say what is installed, what can be checked here, and what to do about what "
        "cannot.",
        epilog="Exit status: 0 if all default targets can be checked on the CPU; 1 if something "
        "that they need is missing.",
    ).parse_args(arguments)
    sections = {
        "installed": list(_packages()),
        "devices": list(_devices()),
        "targets": list(_targets()),
        "around": list(_around()),
    }
    findings = [each for those in sections.values() for each in those]
    width = max(len(each.about) for each in findings)
    for name, those in sections.items():
        say([name, *(each.line(width) for each in those)])
    missing = dict.fromkeys(each.about for each in findings if each.lacks)
    said = f"the defaults need: {', '.join(missing)}" if missing else "all defaults can be checked"
    say([said])
    return RED if missing else GREEN


def _packages() -> Iterator[Finding]:
    """Yield each package with its version, and what is wrong with it."""
    versions = reports.environment()
    yield Finding(about="python", text=versions["python"])
    yield Finding(about=PACKAGE, text=__version__)
    required = _required()
    for name, install in (NEEDED | EXTRA).items():
        version = versions.get(name) or versions.get(INSTEAD.get(name, ""))
        lowest = required.get(name, "")
        if version is None:
            yield Finding(about=name, text="not installed", step=install, lacks=True)
        elif _is_below(version, lowest):
            text = f"{version} is older than {lowest}"
            yield Finding(about=name, text=text, step=f"{install} --upgrade", lacks=True)
        else:
            yield Finding(about=name, text=version)
    if "torch" in versions:
        devices = DEVICES if _no_device("cuda") is None else DEVICES[:1]
        untested = tested.untested(versions, tested.runs(), devices)
        plain = "the plugin's own tests have run on these versions"
        yield Finding(about="versions", text=untested or plain)


def _required() -> dict[str, str]:
    """Return the lowest version of each package; nothing if the plugin runs from its source."""
    try:
        from packaging.requirements import Requirement

        lines = metadata.requires(PACKAGE) or ()
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    versions = {}
    for requirement in map(Requirement, lines):
        lowest = [each.version for each in requirement.specifier if each.operator == ">="]
        versions[requirement.name] = lowest[0] if lowest else ""
    return versions


def _is_below(version: str, lowest: str) -> bool:
    if not lowest:
        return False
    from packaging.version import Version  # there, because a lowest version was read with it

    return Version(version) < Version(lowest)


def _devices() -> Iterator[Finding]:
    """Yield each device, and why it cannot be used."""
    for device in DEVICES:
        reason = _no_device(device)
        yield Finding(about=device, text=f"cannot be used: {reason}" if reason else "can be used")


def _targets() -> Iterator[Finding]:
    """Yield each target with the devices on which it can be checked, and why not on others."""
    usable = [device for device in DEVICES if _no_device(device) is None]
    defaults = Settings().targets
    for name in names.targets():
        cannot = {device: reason for device in usable if (reason := _no_target(name, device))}
        can = [device for device in usable if device not in cannot]
        parts = [f"can be checked on {' and '.join(can)}" if can else "cannot be checked"]
        parts += [f"not on {device}: {reason}" for device, reason in cannot.items()]
        yield Finding(
            about=name,
            text="; ".join(parts if name in defaults else [*parts, "off by default"]),
            lacks=name in defaults and DEVICES[0] not in can,
        )


def _no_target(name: str, device: str) -> str | None:
    """Return why a target cannot be checked on a device; None if it can."""
    try:
        return targets.get(name).unavailable(device)
    except Exception as error:
        return f"it cannot be imported: {type(error).__name__}: {error}"


def _no_device(device: str) -> str | None:
    """Return why nothing can be checked on a device; None if it can be used."""
    try:
        from pytest_torchexport.outcomes.subject import unusable_device
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:
        return f"torch cannot be imported: {type(error).__name__}: {error}"
    return unusable_device(device)


def _is_registered() -> bool:
    """Return True if pytest finds the plugin among what is installed."""
    return bool(metadata.entry_points(group="pytest11").select(name="torchexport"))


def _around() -> Iterator[Finding]:
    """Yield findings about pytest and the machine."""
    off = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    if not _is_registered():
        yield Finding(about="pytest", text="does not know the plugin", step=OURS, lacks=True)
    elif off:
        text = "loads no plugin by itself: PYTEST_DISABLE_PLUGIN_AUTOLOAD is set"
        yield Finding(about="pytest", text=text, step="pytest -p pytest_torchexport.plugin")
    else:
        yield Finding(about="pytest", text="loads the plugin")
    if sys.platform == "linux" and kernel.landlock_version() > 0:
        text = "a file that others made is checked in a process that can reach no other files"
        yield Finding(about="check_artifact", text=f"{text} (by Linux's Landlock)")
    else:
        text = "code in a file that others made can reach all your files: there is no Landlock"
        step = "check such files in a container"
        yield Finding(about="check_artifact", text=text, step=step)
    if os.environ.get("PYTORCH_JIT") == "0":
        text = "PYTORCH_JIT=0: trace and script make no program"
        yield Finding(about="torch.jit", text=text, step="unset PYTORCH_JIT", lacks=True)
