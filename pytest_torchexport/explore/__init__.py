"""Calls that together take every branch eager can take.

``reach`` finds the functions that run under a subject's forward, ``rewrite`` compiles them once more with
their conditions handed to a ``recorder``, ``origins`` remembers what tensors those conditions were made
of, ``observed`` runs eager so, and ``search`` looks for calls that take what no call has taken yet.

Nothing here judges: what eager does in a verdict, it does unobserved.
"""
