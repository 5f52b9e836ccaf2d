"""What NTK-CL is measured against: a file for each method, with its equations, source and published numbers."""
