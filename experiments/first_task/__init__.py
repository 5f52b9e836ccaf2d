"""Whether kernels of the first task rank feature maps as the whole stream does (docs/theory.md, section 9.1)."""
