"""The commands of ``python -m pytest_torchexport``: one file each, with a function ``main``.

``main`` takes the arguments behind the command's name and returns the exit status. A file is
imported if its command is asked for, so that those on reports start without torch.
"""

COMMANDS = {
    "try": "check a module on export targets without a test, and print the test to paste",
    "doctor": "say what is installed, what can be checked here, and what to do about the rest",
    "verify": "say if an artifact is the one that passed, and at the sizes that it serves",
    "render": "merge JSON reports, write other reports from them, and tell by the exit status "
    "if they are green",
    "diff": "say what changed between the JSON reports of two runs",
}
