"""What parameters can be written as; a module of its own, so that a command line may name it without JAX."""

FORMATS = (
    "orbax",
    "npz",
    "timm",
    "transformers",
    "open_clip",
    "efficientvit",
    "hart",
    "mar",
    "pytorch_fid",
    "segment_anything",
    "var",
)
