"""What the user asked for, validated: names, dims, options, settings, the plan of an item.

Imports neither torch nor pytest.
"""
