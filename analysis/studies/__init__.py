"""What the commands do: kernels, gaps, forecasts, what-ifs."""
