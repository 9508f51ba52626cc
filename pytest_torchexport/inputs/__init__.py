"""Which calls are legal; how they are made, drawn and shrunk. Runs nothing."""
