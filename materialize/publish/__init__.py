"""Where predictions go: the key-value store in Feast's format, and the scored tables."""
