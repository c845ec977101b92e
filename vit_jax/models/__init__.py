"""One file per architecture: the Linen module, its published variants, and `build`, which configs call."""
