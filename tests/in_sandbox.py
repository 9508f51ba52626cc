"""Helpers that tests of the clean process share: files for its fake loaders, and calls of them."""

from __future__ import annotations

import pathlib
import platform
import socket

import pytest
import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.sandbox import kernel, process, tensors, wire
from pytest_torchexport.sandbox.libraries import LIBRARIES
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import Source

# The kernel filters system calls, and their numbers are known.
KERNEL_FILTERS = (
    pathlib.Path("/proc/sys/kernel/seccomp/actions_avail").exists()
    and platform.machine() in kernel._MACHINES
)
where_it_forks = pytest.mark.skipif(
    not process.FORKS, reason="children of a server exist only where it forks"
)


MEMORY = 2048
TORCH, ONNXRUNTIME = LIBRARIES["torch"], LIBRARIES["onnxruntime"]


def source(tmp_path, target, text="1", **options):
    path = tmp_path / "artifact.txt"
    path.write_text(text)
    options = {"blocked": (), "imports": (), "memory": MEMORY, **options}
    return Source(
        load=f"sandbox_targets:{target}.load",
        read=f"sandbox_targets:{target}.traits.read",
        library="torch",
        path=path,
        home=tmp_path,
        device="cpu",
        **options,
    )


def run(session, call=None, *, limit=60.0, **options):
    outcome, _ = session.run(call or Call((torch.zeros(2),)), seed=0, limit=limit, **options)
    return outcome


def close():
    Server.close_all()


def children_of(pid):
    return map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def lives(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class Own:
    pass


def across(value, codec=tensors.CODEC, other=tensors.CODEC):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, wire.packed(value, codec))
        return wire.receive(theirs, other)
