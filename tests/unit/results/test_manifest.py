"""results/manifest.py: what was judged, and every change of its text."""

from __future__ import annotations

import json
import os

import pytest

from pytest_torchexport.results import manifest
from pytest_torchexport.results.manifest import Manifest, Sizes
from pytest_torchexport.results.plain import Unreadable


@pytest.fixture
def judged(tmp_path):
    """The manifest of a folder with a file, a sidecar, and one in a folder below."""
    (tmp_path / "below").mkdir()
    for name in ("model.onnx", "model.onnx.data", "below/vocabulary"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    return Manifest(
        file="model.onnx",
        files=manifest.files_in(tmp_path),
        subject="Net",
        target="onnx",
        device="cpu",
        status="passed",
        weak=("constant",),
        sizes={"batch": Sizes(low=1, high=16)},
        environment={"torch": "2.13.0"},
    )


def test_what_is_written_is_read(judged):
    assert manifest.read(manifest.render(judged)) == judged
    assert list(judged.files) == ["below/vocabulary", "model.onnx", "model.onnx.data"]


def test_a_link_to_a_folder_and_a_pipe_are_not_read(judged, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a regular file"):
        manifest.files_in(tmp_path)
    (tmp_path / "pipe").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "below")
    with pytest.raises(OSError, match="link is not a regular file"):
        manifest.files_in(tmp_path)


def test_every_changed_character_of_the_manifest_is_found(judged):
    text = manifest.render(judged)
    for place, character in enumerate(text):
        if not character.isspace():
            with pytest.raises(Unreadable):
                manifest.read(text[:place] + chr(ord(character) ^ 1) + text[place + 1 :])


def test_a_manifest_that_cannot_be_read_is_told(judged):
    text = manifest.render(judged)
    document = json.loads(text)
    del document["seal"]
    wrong = document | {"files": 3}
    sealed = json.dumps(wrong | {"seal": manifest._seal(wrong)})
    for unreadable, why in [
        (text[:-9], "it is not JSON, or was cut off"),
        (b"\xff\xfe", "it is not JSON, or was cut off"),
        ("[]", "it is no manifest of pytest-torchexport"),
        ('{"schema": "pytest-torchexport"}', "it is no manifest"),
        (json.dumps(document | {"version": 2}), "a newer pytest-torchexport has written it"),
        (sealed, "files: 3 is not an object"),
    ]:
        with pytest.raises(Unreadable, match=why):
            manifest.read(unreadable)
