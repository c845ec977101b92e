"""Where examples come from: one module per source, each with `build(**kwargs) -> Source`."""
