"""What a check found, as plain data, and its texts and files.

Imports neither torch nor another room.
"""
