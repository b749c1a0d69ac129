"""All that is asked of a model as it is served: one graph from history to the best items, tables in few bits, pruned copies, and the
operators that ONNX has and torch's exporter does not write. What is learnt does not depend on this package."""
