"""Compare eager and the artifact on one call: do they differ, is it rounding, which failure is it.

Decides, never schedules.
"""
