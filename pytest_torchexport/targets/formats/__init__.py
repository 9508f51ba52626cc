"""One file format per file: load and save it, and read what its programs say of themselves.

An exporter makes a program, a format reads one. ``facts`` holds the class that checks ask,
``sizes`` what programs of ``torch.export`` and ONNX say of sizes.
"""
