"""One property per file: what the check does and what it raises.

A check knows a case, never another check.
"""
