"""Tables of what exporters say if they refuse a module, and what it means: one per exporter."""
