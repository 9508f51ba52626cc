"""commands/verify.py: the exit status, and a line that names the file."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_torchexport.commands import CommandError, parse_dim
from pytest_torchexport.commands.verify import first_other
from pytest_torchexport.results import manifest
from pytest_torchexport.results.manifest import Manifest, Sizes


@pytest.fixture
def call(tmp_path, command):
    """Run the command on a folder with a file and its manifest."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    judged = Manifest(
        file="model.pt",
        files=manifest.files_in(folder),
        subject="Net",
        target="trace",
        device="cpu",
        status="passed",
        weak=("its output is constant",),
        sizes={"batch": Sizes(low=1, high=16)},
        environment={"torch": "2.13.0"},
    )

    def run(*arguments, text=None, **changes):
        found = manifest.render(dataclasses.replace(judged, **changes))
        (folder / manifest.NAME).write_text(found if text is None else text)
        return command("verify", "shipped", *arguments)

    run.folder = folder
    return run


def test_what_passed_is_said_with_sizes_versions_and_doubts(call):
    status, out, err = call("--sizes=batch=2..16")
    assert (status, err) == (0, "")
    assert out == (
        "model.pt: what passed (Net on trace-cpu)\n  sizes     batch 1..16\n"
        "  versions  torch 2.13.0\n  warn      its output is constant\n"
    )


def test_the_opset_of_an_onnx_file_is_among_the_versions(call):
    assert "  versions  torch 2.13.0, opset 18\n" in call(opset=18)[1]


def test_the_folder_of_all_artifacts_is_refused_with_those_in_it(call, command):
    call()
    status, _, err = command("verify", ".")
    assert status == 2
    assert "torchexport.json: there is none; name one of shipped\n" in err
    (call.folder / manifest.NAME).unlink()
    assert "there is none; pytest --torchexport-ship=DIR" in command("verify", ".")[2]


def test_a_changed_another_a_missing_and_an_added_file_are_found(call):
    (call.folder / "below").mkdir()
    (call.folder / "below" / "new").touch()
    (call.folder / "model.pt").write_bytes(b"Weights")
    files = {
        name: manifest.File(sha256="0" * 64, size=7) for name in ("gone", "below/new", "model.pt")
    }
    status, out, _ = call(files=files)
    missing, other, changed = out.splitlines()
    assert status == 1
    assert missing == "shipped: gone: it was judged and is missing"
    assert other.endswith("not the file that was judged: it has 0 bytes instead of 7")
    assert changed.startswith("shipped: model.pt: it is not the file that was judged: sha256 ")
    added = call(files={})[1]
    assert "shipped: below/new: it was not judged, and stands beside what was\n" in added


def test_sizes_that_were_not_verified_are_refused(call):
    status, out, _ = call("--sizes=batch=1..64", "--sizes=bacth=2")
    assert status == 1
    assert out == (
        "shipped: model.pt: batch=17 was not verified; verified: 1..16\n"
        "shipped: model.pt: no size of 'bacth' was verified; verified dims: batch 1..16. "
        "Did you mean 'batch'?\n"
    )
    status, out, _ = call("--sizes=batch=2", sizes={})
    assert "no size of 'batch' was verified; verified dims: none." in out
    assert status == 1


def test_a_manifest_that_is_missing_or_cannot_be_read_is_status_2(call):
    status, out, err = call(text="{")
    assert (status, out) == (2, "")
    assert "torchexport.json: it is not JSON" in err
    status, out, err = call("--sizes=batch")
    assert (status, out) == (2, "")
    assert "'batch' is not a dim with its sizes" in err


def test_a_dim_has_its_sizes():
    assert parse_dim("batch=1..16") == ("batch", range(1, 17))
    assert parse_dim("n=8") == ("n", range(8, 9))
    for text in ("batch", "batch=", "batch=a..b", "2=1..3", "n=3..1"):
        with pytest.raises(CommandError, match=r"legal: batch=1..16|low 3 is above high 1"):
            parse_dim(text)


@pytest.mark.parametrize(
    ("sizes", "asked", "other"),
    [
        (Sizes(low=1, high=16), range(1, 17), None),
        (Sizes(low=1, high=16), range(1, 65), 17),
        (Sizes(low=2, high=16), range(40, 2**62), 40),
        (Sizes(low=1, high=2**62), range(1, 2**62), None),
        (Sizes(low=32, high=128, step=32), range(32, 129), 33),
        (Sizes(low=1, high=7, only=(1, 2, 7)), range(1, 3), None),
        (Sizes(low=1, high=7, only=(1, 2, 7)), range(1, 8), 3),
    ],
)
def test_the_first_size_that_was_not_verified(sizes, asked, other):
    assert first_other(sizes.verified, asked) == other
