"""The cache of verdicts: a check whose every input is as it was at an earlier pass is not run."""
