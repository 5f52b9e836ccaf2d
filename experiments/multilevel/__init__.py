"""What each part of the readout `multilevel` is worth, and how far it reaches: one change at a time, offline."""
