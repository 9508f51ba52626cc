"""Run a callable on a call and return its outcome; compare two outcomes.

The only room that touches torch's global state (``torch_state``).
"""
