"""The cache of verdicts: a check whose every input is as it was at an earlier pass is not run.

And what eager did in a test's other items of the same run.
"""
