"""The findings of a check as plain data, and their texts and files.

Imports neither torch nor another room.
"""

# Here, because reports name it, and the package's own face imports every room for type checkers.
__version__ = "0.1.0"
