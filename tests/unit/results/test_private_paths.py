"""results/private_paths.py: paths of the machine are taken out."""

from pathlib import Path

from pytest_torchexport.results.private_paths import without_private_paths


def test_paths_of_the_machine_are_taken_out(tmp_path):
    home = Path.home()
    text = f'File "{tmp_path}/net.py", {home}/.venv/lib/python3.11/site-packages/torch/nn.py, {home}/secret'
    assert without_private_paths(text, tmp_path) == 'File "net.py", torch/nn.py, ~/secret'


def test_a_long_word_does_not_take_long(tmp_path):
    """It would take hours if each character of it began a search."""
    long = "ab/cd" * 2**18
    assert without_private_paths(long, tmp_path) == long
