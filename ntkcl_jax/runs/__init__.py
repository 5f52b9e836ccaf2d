"""What a run is on disk and in memory: folder, checkpoints, log, context, and runs read back."""
