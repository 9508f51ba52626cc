"""The findings of a check as plain data, and their texts and files.

Imports neither torch nor another room.
"""
