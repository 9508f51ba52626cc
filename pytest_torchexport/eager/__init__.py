"""Eager as the reference: does it repeat, what does it change, which calls does it take?

Knows no artifact.
"""
