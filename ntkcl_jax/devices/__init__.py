"""Devices in a mesh, processes of one run, memory and FLOPs of a run, peaks of the hardware."""
