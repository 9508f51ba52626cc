"""The clean process: an interpreter that has never seen the model's code, and runs what was saved.

In-process round trips miss everything that only this process knows: classes, custom ops, pytree types; and
an artifact that kills its interpreter would end the test session. Nothing is imported here: of the two
servers one has no torch, and its code comes from this package too.

``session`` is for the rooms above: load an artifact there, call it, and hear what became of it. ``process`` starts and
ends the servers, ``server`` and ``child`` run inside them, ``guard`` takes away what a child must not have,
(``landlock``: by the kernel), ``wire`` is what both sides write to each other, with ``tensors`` and ``arrays`` for its data,
``answers`` reads with distrust what comes back. ``with_torch`` and ``with_onnxruntime`` are what a child answers with, ``installed`` says where
it finds torch.
"""
