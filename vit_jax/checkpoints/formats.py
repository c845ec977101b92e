"""What parameters can be written as; a module of its own, so that a command line may name it without JAX."""

FORMATS = (
    "orbax",
    "npz",
    "timm",
    "diffusers",  # before transformers, which has a part of what it has
    "transformers",
    "open_clip",
    "compvis",
    "dall_e",
    "dit",
    "efficientvit",
    "hart",
    "mar",
    "pytorch_fid",
    "segment_anything",
    "taesd",
    "var",
)
