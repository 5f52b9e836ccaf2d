"""The network: frozen vision transformer, adaptation streams, fusion and heads (Flax NNX)."""
