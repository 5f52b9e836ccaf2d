"""The theory of forgetting as pure float64 functions of kernels and targets; NumPy and SciPy only, no run needed."""
