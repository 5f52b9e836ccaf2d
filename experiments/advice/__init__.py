"""Does advice help? Runs of known illness, advised, and trained again as they were told."""
