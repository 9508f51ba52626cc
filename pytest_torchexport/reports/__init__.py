"""Reports: pure text builders over verdicts, one module per format. They know nothing but ``verdict``."""
