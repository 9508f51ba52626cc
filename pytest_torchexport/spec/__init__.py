"""What calls are legal: the marker's arguments, the language of dims, and the spec of one example.

``options`` and ``dims`` are free of torch, because a wrong marker is refused while pytest collects;
``domains``, ``inputs`` and ``exporters`` look at tensors and run only inside an item.
"""
