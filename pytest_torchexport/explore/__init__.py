"""Finds calls that together take every branch that eager can take. Judges nothing."""
