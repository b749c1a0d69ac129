"""Which events of a history carry an answer, and whether what is said of it is true. Tensors only."""
