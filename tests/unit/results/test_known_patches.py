"""results/known_patches.py: git applies a patch, and the patches of shards make one that has all changes."""

from __future__ import annotations

import dataclasses
import functools
import subprocess

import pytest
from known_entries import ENTRY, other, patch_of

from pytest_torchexport.results import known_files, known_patches
from pytest_torchexport.results.known_files import Changes, KnownFilesError


@pytest.fixture
def apply(tmp_path):
    def run(directory, **changes):
        return known_files.apply(directory, Changes(**changes), tmp_path / "lock")

    return run


@pytest.fixture
def repository(tmp_path):
    """Return a function that applies a patch to the known failures with git."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)

    def apply(text):
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=text, text=True, check=True)

    return apply


@pytest.fixture
def proposed(tmp_path):
    """Return a function that returns the patch of one shard."""
    return functools.partial(patch_of, tmp_path)


def known_tests(directory):
    return sorted((each.entry.test, each.entry.subject) for each in known_files.read(directory))


@pytest.mark.parametrize("prefix", [".", "sub/project"])
def test_a_patch_makes_git_do_the_same(tmp_path, apply, prefix):
    project = tmp_path / prefix
    directory = project / "known"
    apply(
        directory, added=[ENTRY, other(2), other(3, test="b.py::test"), other(4, test="c.py::test")]
    )
    unfinished = directory / "c/test.toml"
    unfinished.write_text(f"{unfinished.read_text()}# \u2028 \x85", encoding="utf-8")
    changes = Changes(
        added=[other(5, test="new.py::test"), other(6, test="c.py::test")],
        removed=[ENTRY, other(3, test="b.py::test")],
    )
    into, patch = tmp_path / "out" / "proposed", tmp_path / "out" / "known.patch"
    before = known_files.texts(directory)
    assert known_patches.propose(directory, changes, root=tmp_path, into=into, patch=patch)
    assert known_files.texts(directory) == before
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    assert known_files.texts(directory) == known_files.texts(into)
    assert not known_patches.propose(directory, Changes(), root=tmp_path, into=into, patch=patch)
    assert not into.exists()
    assert not patch.exists()


def test_shards_that_add_parametrizations_of_one_test_make_one_new_file(
    tmp_path, repository, proposed
):
    items = [other(1, test=f"a.py::test[{number}]") for number in range(4)]
    patches = [proposed(added=items[::2]), proposed(added=items[1::2])]
    repository(known_patches.merged(patches))
    assert known_tests(tmp_path / "known") == [(item.test, "Net1") for item in items]


def test_shards_that_change_one_file_and_all_remove_what_is_gone_make_one_patch(
    tmp_path, repository, proposed, apply
):
    items = [other(1, test=f"a.py::test[{number}]") for number in range(4)]
    gone, moved = other(2, test="b.py::gone"), other(3, test="b.py::old")
    new = dataclasses.replace(moved, test="b.py::new")
    stays = dataclasses.replace(items[3], until="")
    apply(tmp_path / "known", added=[*items, gone, moved])
    patches = [
        proposed(removed=[items[0], gone]),
        proposed(removed=[items[2], gone, moved], added=[new]),
        # Accepted again: the same failure, with other fields.
        proposed(removed=[items[3], gone], added=[stays]),
    ]
    repository(known_patches.merged(patches))
    known = tmp_path / "known"
    assert known_tests(known) == [(each.test, each.subject) for each in (items[1], items[3], new)]
    assert stays in [each.entry for each in known_files.read(known)]
    assert not (known / "b/gone.toml").exists()


def test_a_single_patch_stays_as_it_is_and_none_is_none(proposed, apply, tmp_path):
    apply(tmp_path / "known", added=[ENTRY, other(1)])
    unfinished = tmp_path / "known" / known_files.file_of(ENTRY.test)
    unfinished.write_text(f"{unfinished.read_text()}# \u2028 \x85", encoding="utf-8")
    patch = proposed(removed=[ENTRY], added=[other(2, test="a b.py::test")])
    assert "No newline" in patch
    assert known_patches.merged([patch]) == patch
    assert known_patches.merged([]) == ""


def test_patches_of_different_commits_or_without_the_whole_files_are_refused(
    tmp_path, proposed, apply
):
    apply(tmp_path / "known", added=[ENTRY, other(1)])
    first = proposed(removed=[ENTRY])
    apply(tmp_path / "known", added=[other(2)])
    with pytest.raises(KnownFilesError, match="different commits"):
        known_patches.merged([first, proposed(removed=[ENTRY])])
    lines = first.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("@@")) + 1
    with pytest.raises(KnownFilesError, match="no version"):
        known_patches.merged(["".join([*lines[:start], *lines[start + 4 :]])])
    with pytest.raises(KnownFilesError, match="one version of pytest-torchexport"):
        known_patches.merged([f"{first}@@ -90,1 +90,1 @@\n"])
