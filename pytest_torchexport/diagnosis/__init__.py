"""Find out after a failure who is to blame, where, and what to do.

Runs nothing on a pass, and changes no verdict's status or class.
"""
