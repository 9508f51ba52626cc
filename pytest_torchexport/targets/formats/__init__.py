"""One file format per file: what its programs say of themselves. An exporter makes a program, a format reads one."""
