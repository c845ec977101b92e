"""From many channels to many pixels: how a network that works in low resolution gives a larger image."""

from jaxtyping import Array, Float


def pixel_shuffle(x: Float[Array, "b h w c_s_s"], scale: int) -> Float[Array, "b hs ws c"]:
    """Each place's channels become `scale` x `scale` pixels, as in PyTorch: channel (c * scale + row) * scale + column
    is channel c of the pixel (row, column) of its place (Shi et al., arXiv:1609.05158)."""
    b, h, w, channels = x.shape
    x = x.reshape(b, h, w, channels // scale**2, scale, scale)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * scale, w * scale, -1)
