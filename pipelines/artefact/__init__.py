"""From a trained model to what is served: the graph, its smaller candidates, the catalogue, the manifest, the bento."""
