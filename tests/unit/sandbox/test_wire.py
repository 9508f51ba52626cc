"""sandbox/wire.py: values cross as bytes, and bytes that are no frame are refused."""

from __future__ import annotations

import contextlib
import math
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict

import pytest
import torch
from in_sandbox import Own, across
from zoo.files import Outputs

from pytest_torchexport.sandbox import process, tensors, wire


def frame(header, data=b"", *, claimed=None):
    """A frame as it should be counted."""
    size = len(data) if claimed is None else claimed
    return len(header).to_bytes(8) + size.to_bytes(8) + header + data


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (frame(b"nope"), "JSONDecodeError"),
        (frame(b"{}"), "not enough values"),
        (frame(b'{"other": [1, 2]}'), "unknown value tag"),
        (frame(b'{"value": [1]}'), "unknown value tag 'value'"),
        (frame(b'{"value": 1}', b"1234"), "4 trailing bytes after the last tensor"),
        (frame(b'{"complex": [1' + b"0" * 400 + b", 0]}"), "OverflowError"),
        (frame(b'{"dict": [[{"list": []}, {"value": 1}]]}'), "unhashable"),
        (frame(b'{"list": [' * 50_000), "Error"),
        (frame(b'{"tensor": ["float32", [225], 900]}', b"1234"), "a tensor longer than its frame"),
        (frame(b'{"tensor": ["float32", [2], 4]}', b"1234"), "4 bytes are no float32"),
        (frame(b'{"tensor": ["__name__", [1], 4]}', b"1234"), "no dtype of torch"),
        (frame(b'{"tensor": ["float32", [-1], 4]}', b"1234"), "without dtype and shape"),
        (frame(b'{"tensor": ["float32", [0, 9223372036854775808], 0]}'), "Error"),
        (frame(b'{"tensor": ["qint8", [4], 4]}', b"1234"), "no dtype of torch"),
        (frame(b'{"node": ["by name: nothing", []]}'), "no name of torch's"),
        (b"\xff" * 16, "a frame of"),
        ((2**24 + 1).to_bytes(8) + bytes(8), "a frame of"),
    ],
    ids=lambda item: item[16:60].decode(errors="replace") if isinstance(item, bytes) else "",
)
@pytest.mark.parametrize("codec", [tensors.CODEC, tensors.STRICT], ids=["own", "strict"])
def test_bytes_that_are_no_frame_are_told(frame, said, codec):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=_all_of, args=(ours, frame)).start()
        with pytest.raises(wire.Malformed, match=said):
            wire.receive(theirs, codec)


def _all_of(channel, data):
    with contextlib.suppress(OSError):
        channel.sendall(data)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
def test_what_a_frame_claims_is_not_had_before_it_comes():
    code = """
import resource, socket
from pytest_torchexport.sandbox import wire
ours, theirs = socket.socketpair()
ours.sendall((2).to_bytes(8) + (2**33).to_bytes(8) + b"{}" + b"1234")
ours.shutdown(socket.SHUT_WR)
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
try:
    wire.receive(theirs, wire.ARRAYS)
except EOFError:
    print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(process.__file__).parents[2],
    )
    assert done.stdout == "fine\n", done.stderr


def test_containers_deeper_than_python_follows_are_not_sent():
    deep = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    with pytest.raises(wire.UnsupportedValue, match="cannot be sent"):
        wire.packed(deep, tensors.CODEC)


def test_a_frame_of_more_data_than_allowed_is_not_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, wire.packed(torch.zeros(1000), tensors.CODEC))
        with pytest.raises(wire.Malformed, match="4000 bytes"):
            wire.receive(theirs, tensors.CODEC, most=3999)


def test_a_frame_that_comes_in_drops_is_late():
    ours, theirs = socket.socketpair()
    frame = (1000).to_bytes(8) + bytes(8)

    def drip():
        with contextlib.suppress(OSError):
            for byte in frame * 100:
                ours.sendall(bytes([byte]))
                time.sleep(0.01)

    with ours, theirs:
        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(TimeoutError):
            wire.receive(theirs, tensors.CODEC, seconds=0.2)


def test_containers_and_scalars_cross():
    value = {
        "list": [1, 2.5, "text\nwith ümlaut", None, True],
        "tuple": (1, (2,), []),
        3: {"empty": {}},
        (1, 2): 1 + 2j,
        "big": 2**70,
        "odd": [math.inf, -math.inf, b"\x00\xff"],
        "tensors": [torch.ones(2), (torch.zeros(3), torch.empty(0))],
    }
    found = across(value)
    assert list(found) == list(value)
    assert [item.tolist() for item in found.pop("tensors")[1]] == [[0, 0, 0], []]
    value.pop("tensors")
    assert found == value
    assert type(found["tuple"][1]) is tuple
    assert math.isnan(across([math.nan])[0])


def test_a_registered_subclass_of_a_container_arrives_as_itself_where_it_is_known():
    value = {"inside": Outputs(last=torch.ones(2), first=(1, 2.5))}
    for codec, cls in ((tensors.CODEC, Outputs), (tensors.STRICT, OrderedDict)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wire.send(ours, wire.packed(value, tensors.CODEC))
            found = wire.receive(theirs, codec)["inside"]
        assert type(found) is cls
        assert list(found) == ["last", "first"]
        assert found["first"] == (1, 2.5)


def test_what_only_this_process_knows_does_not_cross():
    with pytest.raises(wire.UnknownClass, match="to a process that does not know the class"):
        across({"a": Own()})


@pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), {1, 2}])
def test_what_others_know_and_frames_do_not_have_is_our_gap(value):
    with pytest.raises(wire.UnsupportedValue, match="cannot be sent to another process"):
        across(value)


def test_the_other_side_may_have_no_torch():
    found = across([torch.tensor([[1.5, 2]], dtype=torch.bfloat16)], other=wire.ARRAYS)
    assert (found[0].dtype, found[0].shape, len(found[0].data)) == ("bfloat16", (1, 2), 4)
    assert across(found, wire.ARRAYS)[0].tolist() == [[1.5, 2]]
