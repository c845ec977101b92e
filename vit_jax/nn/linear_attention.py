"""ReLU linear attention, and its multi-scale form ("EfficientViT", arXiv:2205.14756, section 3.1).

Softmax attention computes (Q K^T) V: every query meets every key, and the cost grows with the tokens squared. Where the
similarity of query and key is a plain product, relu(q) . relu(k), the brackets may move:

    out_i = sum_j (relu(q_i) . relu(k_j)) v_j / sum_j relu(q_i) . relu(k_j)          (Q K^T) V, 2 n^2 d
          = relu(q_i) (sum_j relu(k_j)^T v_j) / relu(q_i) (sum_j relu(k_j)^T)        Q (K^T V), 2 n d^2

(multiplications of a head of width d, for n tokens). What all keys say together is one matrix [d, d + 1] a head,
whatever their number.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError
from vit_jax.nn.conv import Conv
from vit_jax.nn.flops import aggregation_flops, linear_mixing_flops, product_flops
from vit_jax.nn.mbconv import ConvNorm, MobileStyle


def linear_attention(
    q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], v: Float[Array, "b s h d"], *, epsilon: float = 1e-15
) -> Float[Array, "b t h d"]:
    """relu(q) (relu(k)^T v) / (relu(q) relu(k)^T 1 + epsilon), with all sums in float32.

    Where there are no more keys than features of a head the quadratic form is cheaper, and is what is computed; it is
    equal.

    Args:
        epsilon: added to the normaliser: 1e-15 is the authors', 1e-5 timm's.
    """
    if k.shape[1] <= k.shape[3]:
        weights = linear_weights(q, k, epsilon=epsilon)
        out = jnp.einsum("bhts,bshd->bthd", weights, v.astype(jnp.float32), precision="highest")
        return out.astype(v.dtype)
    # Heads first makes both products a batch of plain matrix products.
    q, k, v = (x.swapaxes(1, 2) for x in (nn.relu(q), nn.relu(k), v))
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)  # the normaliser is the sum of ones
    kv = jnp.einsum("bhsd,bhse->bhde", k, v, preferred_element_type=jnp.float32)
    out = jnp.einsum("bhtd,bhde->bhte", q.astype(jnp.float32), kv, precision="highest")
    out = out[..., :-1] / (out[..., -1:] + epsilon)
    return out.astype(v.dtype).swapaxes(1, 2)


def linear_weights(
    q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], *, epsilon: float = 1e-15
) -> Float[Array, "b h t s"]:
    """The weights that `linear_attention` never writes out: how much each query takes of each value, float32.

    Each row sums up to 1, or to 0 where no key is similar. The rows are flatter than those of a softmax: nothing grows
    like an exponential.
    """
    similar = jnp.einsum("bthd,bshd->bhts", nn.relu(q), nn.relu(k), preferred_element_type=jnp.float32)
    return similar / (similar.sum(axis=-1, keepdims=True) + epsilon)


class MultiScaleLinearAttention(nn.Module):
    """Linear attention over tokens at several scales at once (LiteMLA): the map's own, and what convolutions gather.

    Linear attention sees everything and nothing sharply. So queries, keys and values of each head are also gathered
    from their neighbourhoods, by a depthwise convolution and a 1x1 convolution within each of a head's three; what is
    gathered attends in heads of its own, and a projection joins all heads. In the channels, each head's query, key and
    value are neighbours.

    Parameters, float32: `qkv` and `proj` (see `ConvNorm`), and for each scale s `depthwise_s` and `grouped_s` with a
    `kernel` alone.
    With the collection "intermediates" mutable it holds `queries` and `keys` [B, T, heads * (1 + scales), d]; nobody
    else pays.

    Attributes:
        head_width: channels of a head; the map's channels divided by it are the heads of each scale.
        scales: sides of the depthwise convolutions, odd; () is plain linear attention.
        epsilon: see `linear_attention`.
        residual: a branch beside a shortcut, see `MobileStyle.zero_init`.
        style: of the projection and its norm.

    Raises:
        UserError: when the heads do not divide the channels.
    """

    head_width: int
    scales: tuple[int, ...] = (5,)
    epsilon: float = 1e-15
    residual: bool = False
    style: MobileStyle = MobileStyle()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        heads = self.heads(channels)
        of_scale, style = 3 * channels, self.style

        def conv(kernel_size: int, groups: int, name: str) -> Conv:
            return Conv(
                of_scale, kernel_size, 1, groups, use_bias=False, dtype=style.dtype,
                kernel_init=nn.initializers.truncated_normal(0.02), implementation=style.implementation, name=name,
            )  # fmt: skip

        qkv = conv(1, 1, "qkv")(x)
        scaled = [qkv]
        for scale in self.scales:
            gathered = conv(scale, of_scale, f"depthwise_{scale}")(qkv)
            scaled.append(conv(1, 3 * heads, f"grouped_{scale}")(gathered))
        tokens = jnp.concatenate(scaled, axis=-1).reshape(batch, height * width, -1, 3, self.head_width)
        q, k, v = (tokens[:, :, :, i] for i in range(3))
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            self.sow("intermediates", "queries", q)
            self.sow("intermediates", "keys", k)
        out = linear_attention(q, k, v, epsilon=self.epsilon).reshape(batch, height, width, -1)
        zero = self.residual and style.zero_init
        return ConvNorm(channels, 1, activates=False, starts_at_zero=zero, style=style, name="proj")(out, train)

    def heads(self, channels: int) -> int:
        """Of each scale."""
        if channels % self.head_width:
            raise UserError(
                f"{channels} channels do not divide into heads of {self.head_width}",
                "Use a width that is a multiple of head_width",
            )
        return channels // self.head_width

    def flops(self, channels: int, size: tuple[int, int]) -> float:
        """Of one map of so many channels and [h, w] places."""
        places, heads = size[0] * size[1], self.heads(channels) * (1 + len(self.scales))
        projections = product_flops(places, channels, 3 * channels)
        projections += product_flops(places, heads * self.head_width, channels)
        gathering = [aggregation_flops(places, 3 * channels, 3 * self.heads(channels), k) for k in self.scales]
        return projections + sum(gathering) + linear_mixing_flops(places, heads, self.head_width)
