"""Runs a callable on a call and says what it did; compares two outcomes. The only room that touches torch's globals and private API."""
