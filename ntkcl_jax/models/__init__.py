"""The frozen ViT and what is put into it: Flax modules, and their pure form."""
