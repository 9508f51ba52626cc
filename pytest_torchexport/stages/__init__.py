"""What is done with an artifact between its export and its verdict: one stage per file.

Each is a function of a ``Bench``. What it finds goes into the bench's ledger; what it finds wrong it raises.
"""
