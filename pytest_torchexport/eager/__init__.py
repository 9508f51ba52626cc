"""Eager as the reference: if it repeats, what it changes, which calls it takes.

Knows no artifact.
"""
