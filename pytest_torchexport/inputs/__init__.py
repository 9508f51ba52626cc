"""Says which calls are legal; makes, draws and shrinks them. Runs nothing."""
