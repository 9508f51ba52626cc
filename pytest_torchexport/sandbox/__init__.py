"""The sandbox: a process without the model's source, which loads and calls saved artifacts.

A round trip in one process misses what only that process knows (classes, custom operators, pytree
types), and an artifact that kills its interpreter would end the test session.

``session`` is the interface for the rooms above: load an artifact, call it, get an outcome.
``process`` starts and ends servers, ``child`` is what runs in them, ``libraries`` lists what
artifacts are run with. ``wire`` is the protocol; where torch is, ``tensors`` is its codec, and
``with_torch`` answers. ``answers`` validates what comes back. ``guard`` and ``kernel`` take away
what a child must not have.

This file imports nothing: one of the servers has no torch, and it imports this package too.
"""
