"""cuDNN's attention, as jax calls it, and for odd lengths and rematerialisation past what jax asks for."""

import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from vit_jax.nn.batch_axis import split_by_example
from vit_jax.nn.mask import Band, library_band
from vit_jax.nn.recomputed_attention import OUTPUT, STATISTICS


def cudnn_attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    bias: Float[Array, "#b #h #t #s"] | None,
    mask: Bool[Array, "#b #h #t #s"] | None,
    scale: float,
    band: Band | None,
) -> Float[Array, "b t h d"]:
    """softmax(scale q k^T + bias) v; see `vit_jax.nn.attention.attention`.

    jax refuses odd lengths in training: it means to do so only with a bias, but always finds one (0.10.2,
    `_dot_product_attention_fwd_rule`), and a ViT with a class token has 197 tokens. So, without bias and mask, its two
    primitives are called directly, where they are as they were, which also lets rematerialisation keep their results;
    or else odd lengths get one more token, which no query sees.
    """
    if bias is None and mask is None and (band is None or band.after == 0):
        if _direct_works(str(q.dtype), q.shape[-1], jax.default_backend() == "gpu"):
            return _direct(q, k, v, scale, *_causal(band, q.shape[1], k.shape[1]))
        return _padded(q, k, v, scale, band)
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    return jax.nn.dot_product_attention(
        q, k, v, bias=bias, mask=mask, scale=scale, implementation="cudnn", **library_band(band, shape)
    )


@functools.cache
def cudnn_works(dtype: str, width: int, here: bool = True) -> bool:
    """Whether cuDNN's attention runs, forward and backward: tried once; where it does not, stderr says why.

    Args:
        here: False where there is no GPU, for a step that is compiled for another machine's: whether jax takes it.
    """
    if _direct_works(dtype, width, here):
        return True
    return _runs(
        lambda q: _padded(q, q, q, 1.0, None), dtype, width, here,
        "cuDNN's attention does not run here ({}); using XLA's, which is slower.",
    )  # fmt: skip


@functools.cache
def _direct_works(dtype: str, width: int, here: bool) -> bool:
    return _runs(
        lambda q: _direct(q, q, q, 1.0, False, None), dtype, width, here,
        "cuDNN's attention is called through jax ({}): odd lengths are padded, which is slower.",
    )  # fmt: skip


def _runs(function: Callable[[Array], Array], dtype: str, width: int, here: bool, otherwise: str) -> bool:
    """Whether the function of queries, keys and values in one has the gradient of attention, for an odd length."""
    x = np.random.default_rng(0).normal(size=(1, 7, 2, width)).astype(dtype)

    def gradient(attend: Callable[[Array], Array]) -> Callable[[Array], Array]:
        # Of a sum of squares: that of the sum alone hardly depends on queries and keys.
        return jax.jit(jax.grad(lambda q: jnp.square(attend(q).astype(jnp.float32)).sum()))

    try:
        # Compiled ahead, because this may be asked for while something else is traced.
        traced = gradient(function).trace(jax.ShapeDtypeStruct(x.shape, x.dtype))
        if not here:
            traced.lower(lowering_platforms=("cuda",))
            return True
        xla = gradient(lambda q: jax.nn.dot_product_attention(q, q, q, scale=1.0, implementation="xla"))
        found, expected = (
            np.asarray(t.lower().compile()(x), np.float32)
            for t in (traced, xla.trace(jax.ShapeDtypeStruct(x.shape, x.dtype)))
        )
        if np.abs(found - expected).max() <= 0.05 * np.abs(expected).max():
            return True
        reason = "its gradient is not finite" if not np.isfinite(found).all() else "its gradient is another"
    except Exception as error:  # whatever it is that CUDA, cuDNN or their bindings lack
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    print(otherwise.format(reason), file=sys.stderr)
    return False


def _causal(band: Band | None, queries: int, keys: int) -> tuple[bool, int | None]:
    """Whether a mask is causal, and how many keys of the past, itself counted, a query sees."""
    options = library_band(band, (1, 1, queries, keys))
    window = options.get("local_window_size")
    return options.get("is_causal", False), window and window[0] + 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _direct(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    scale: float,
    causal: bool,
    window: int | None,
) -> Float[Array, "b t h d"]:
    return _bind("fwd", (q, k, v), (), scale, causal, window, is_training=False)[0]


def _bind(
    which: str, qkv: tuple[Array, ...], others: tuple[Array, ...], scale: float, causal: bool, window: int | None,
    **options: bool,
) -> list[Array]:  # fmt: skip
    from jax._src.cudnn import fused_attention_stablehlo as fused

    primitive = getattr(fused, f"_dot_product_attention_{which}_p_wrapper")
    none = jnp.zeros(0, qkv[0].dtype)  # for bias, lengths, offsets and page tables
    return primitive.bind(
        *qkv, *[none] * 7, *others,
        scale=scale, seed=0, dropout_rate=0.0, variadic_args=(False, False),
        mask_type=fused.MaskType.CAUSAL if causal else fused.MaskType.NO_MASK,
        layout=fused.AttentionLayout.BTNH.value, sliding_window_length=window, **options,
    )  # fmt: skip


def _direct_forward(
    q: Array, k: Array, v: Array, scale: float, causal: bool, window: int | None
) -> tuple[Array, tuple[Array, ...]]:
    out, statistics = _bind("fwd", (q, k, v), (), scale, causal, window, is_training=True)
    out, statistics = checkpoint_name(out, OUTPUT), checkpoint_name(statistics, STATISTICS)
    return out, (q, k, v, out, statistics)


def _direct_backward(
    scale: float, causal: bool, window: int | None, saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, ...]:
    q, k, v, out, statistics = saved
    return tuple(_bind("bwd", (q, k, v), (statistics, out, gradient), scale, causal, window))


_direct.defvjp(_direct_forward, _direct_backward)


def _padded(
    q: Float[Array, "b t h d"], k: Float[Array, "b s h d"], v: Float[Array, "b s h d"], scale: float, band: Band | None
) -> Float[Array, "b t h d"]:
    """Through jax, with even lengths."""
    queries, keys = q.shape[1], k.shape[1]
    lengths = {}
    if queries % 2 or keys % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        # Of a causal band the last token is in nobody's sight anyway, where there are as many keys as queries.
        if band is None or band.after > 0 or queries != keys:
            full = {"query_seq_lengths": queries, "key_value_seq_lengths": keys}
            lengths = {n: split_by_example(jnp.full(q.shape[:1], length, jnp.int32)) for n, length in full.items()}
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    out = jax.nn.dot_product_attention(
        q, k, v, scale=scale, implementation="cudnn", **lengths, **library_band(band, shape)
    )
    return out[:, :queries]
