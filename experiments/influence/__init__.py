"""Whether influence is real: what leaving out, or remembering, the images that it names does to old tasks."""
