"""The commands of ``python -m pytest_torchexport``.

Each is a function that takes the program's name and the arguments, and returns the exit status. Its
file is imported if the command is asked for, so that those on reports start without torch.
"""

# Name: file and function, and a line of help.
COMMANDS = {
    "try": (
        "try_:main",
        "check a module on export targets without a test, and print the test to paste",
    ),
    "doctor": (
        "doctor:main",
        "say what is installed, what can be checked here, and what to do about the rest",
    ),
    "verify": (
        "verify:main",
        "say if an artifact is the one that passed, and at the sizes that it serves",
    ),
    "render": (
        "render:main",
        "merge JSON reports, write others from them, and tell by the exit status if all is green",
    ),
    "diff": ("render:diff", "say what changed between the JSON reports of two runs"),
}
