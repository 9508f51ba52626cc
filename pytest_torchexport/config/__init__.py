"""The user's settings and options, validated: names, dims, options, settings, the plan of an item.

Imports neither torch nor pytest.
"""
