"""What both commands share at the terminal: options, one-line mistakes, progress, tables."""
