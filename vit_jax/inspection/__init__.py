"""Looking inside a model: attention, position embeddings, filters and reconstructions, as arrays and as figures."""
