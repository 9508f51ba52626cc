"""Targets as packages of others would add them: each from the public names, in some 60 lines of code."""
