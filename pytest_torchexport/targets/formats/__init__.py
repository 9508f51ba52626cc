"""One file format per file: load and save it, and read what its programs say of themselves.

An exporter makes a program, a format reads one. ``branches``, ``contents``, ``devices`` and
``sizes`` hold what formats have in common, ``facts`` the class that checks ask.
"""
