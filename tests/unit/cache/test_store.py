"""cache/store.py: what is read is what was written, whatever happens to the files."""

from __future__ import annotations

import json
import os

import pytest

from pytest_torchexport.cache import store
from pytest_torchexport.cache.store import Store
from pytest_torchexport.results.verdict import Verdict

KEY, OTHER = "ab" * 32, "cd" * 32


def verdict(**fields):
    return Verdict(subject="Net", target="trace", device="cpu", status="passed", **fields)


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path / "cache", limit=1)


def files(kept):
    return sorted(kept.directory.glob("??/*.json"))


def test_a_verdict_comes_back_with_its_day(kept):
    assert kept.get(KEY) is None
    kept.put(KEY, verdict(max_error=float("nan"), reached={"batch": (1, 2)}))
    found = kept.get(KEY)
    assert found.reached == {"batch": (1, 2)}
    assert len(found.unchanged_since.split("-")) == 3
    assert kept.get(OTHER) is None
    assert (kept.directory / ".gitignore").read_text() == "*\n"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def pass_for_another(path):
    text = path.read_text()
    path.write_text(text.replace("trace", "onnx"))


def be_of_another_key(path):
    path.write_text(path.read_text().replace(KEY, OTHER))


def hold_no_verdict(path):
    path.write_text(json.dumps([1]))


def hold_no_text(path):
    path.write_text(json.dumps({"key": KEY, "sha256": "", "verdict": None}))


def be_nested_too_deeply(path):
    path.write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        pass_for_another,
        be_of_another_key,
        hold_no_verdict,
        hold_no_text,
        be_nested_too_deeply,
        os.unlink,
    ],
)
def test_a_damaged_file_is_no_verdict_and_is_replaced(kept, damage):
    kept.put(KEY, verdict())
    damage(files(kept)[0])
    assert kept.get(KEY) is None
    kept.put(KEY, verdict())
    assert kept.get(KEY) is not None


def test_what_was_not_used_for_longest_is_removed(kept, monkeypatch):
    kept.put(KEY, verdict())
    monkeypatch.setattr(store, "MEGABYTE", 3.5 * files(kept)[0].stat().st_size)
    keys = [f"{number:064x}" for number in range(3)]
    for number, key in enumerate(keys[:2]):
        kept.put(key, verdict())
        os.utime(kept.directory / key[:2] / f"{key}.json", (number, number))
    assert kept.get(keys[0]) is not None  # used now
    kept.put(keys[2], verdict())
    assert kept.get(keys[1]) is None
    assert kept.get(keys[2]) is not None


def test_what_a_killed_process_left_is_removed_too(kept, monkeypatch):
    kept.put(KEY, verdict())
    (found,) = files(kept)
    left = found.with_name(f".{found.name}.1")
    left.write_bytes(found.read_bytes())
    os.utime(left, (1, 1))
    monkeypatch.setattr(store, "MEGABYTE", 2.5 * found.stat().st_size)
    kept.put(OTHER, verdict())
    assert not left.exists()
    assert len(files(kept)) == 2


def test_a_directory_that_is_a_file_raises(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OSError, match=r"directory|exists"):
        Store(tmp_path / "cache", limit=1).put(KEY, verdict())
