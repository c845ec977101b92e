"""What a Transformer block computes, and how it is run: two values instead of thirty repeated arguments."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import DTypeLike

from vit_jax.errors import UserError
from vit_jax.naming import construct
from vit_jax.nn.activation import check_activation
from vit_jax.nn.attention import Empty, Implementation, check_implementation
from vit_jax.nn.dtype import compute_dtype
from vit_jax.ranges import Count, Decay, Positive
from vit_jax.spelling import nearest

NormOrder = Literal["pre", "post", "residual_post", "adaptive"]
NormKind = Literal["layer", "rms"]
QKNorm = Literal["none", "layer", "rms", "l2"]
ModulationFrom = Literal["own", "shared", "table"]
Cross = Literal["none", "plain", "gated"]
Rotary = Literal["none", "halves", "pairs"]
Remat = Literal["none", "elementwise", "dots", "full"]

_CHOICES = {
    "norm": NormOrder,
    "norm_kind": NormKind,
    "modulation": ModulationFrom,
    "qk_norm": QKNorm,
    "rotary": Rotary,
    "cross": Cross,
    "empty": Empty,
}

# Everything in a block that can have a bias.
BIASES = ("query", "key", "value", "out", "fc1", "fc2")


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What a block computes. It is the architecture: saved with a checkpoint, compared when a model is exported.

    Args:
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP.
        head_dim: width of a head; None for the width of the model over the heads.
        norm: "pre" is x + f(norm(x)) (GPT-2, ViT), "post" norm(x + f(x)) (the Transformer of 2017, BERT),
            "residual_post" x + norm(f(x)) (Swin v2), "adaptive" x + gate * f(norm(x) * (1 + scale) + shift), all three
            of a condition and the norm without parameters (DiT).
        modulation: where shift, scale and gate of adaptive norms come from: "own" is a linear layer of each block on
            the condition [B, C] (DiT). Otherwise the condition is those six vectors [B, 6, D], which one layer makes
            for all blocks, see `vit_jax.nn.modulation`: "shared" takes them as they are, "table" adds a table of each
            block (PixArt, VAR at 512 pixels).
        norm_kind: "layer" or "rms".
        norm_epsilon: of every norm of the block.
        norm2_epsilon: of the norm before the MLP, where it has another one (DiT in diffusers).
        activation: of the MLP, see `vit_jax.nn.activation.ACTIVATIONS`.
        gated: the MLP is fc2(activation(gate(x)) * fc1(x)) ("GLU variants improve Transformer", arXiv:2002.05202).
        biases: which of `BIASES` there are; the gate has one where `fc1` has.
        qk_norm: on queries and keys, by head: "layer" and "rms" with parameters; "l2" makes them of length one, and
            the logits are their cosine times a learned factor of each head (VAR).
        logit_scale: what the logits of the self-attention are multiplied by; None for 1 / sqrt(head_dim), or the factor
            that "l2" learns.
        rotary: how rotary positions pair the features of a head: "halves" i with i + d/2, "pairs" 2i with 2i + 1.
        cross: "plain" puts attention to a memory between attention and MLP (the decoder of 2017); "gated" puts it, with
            an MLP of its own, before both, each times tanh of a gate that starts at zero (Flamingo).
        cross_head_dim: width of a head there; None for that of the other.
        norm_memory: a norm of its own for the memory (Perceiver, Flamingo).
        empty: what a token gets that may attend to nothing, see `vit_jax.nn.attention.attention`.
        layer_scale_init: initial value of LayerScale ("Going deeper with image Transformers", arXiv:2103.17239, section
            2.1), None for none.
        dropout_rate: after the attention and after the MLP, and with `hidden_dropout` on its hidden layer too.
        hidden_dropout: ViT's authors drop there; those of the Transformer of 2017, BERT and the GPTs do not.
        attention_dropout_rate: on the attention weights.

    Raises:
        UserError: for a value that does not exist.
    """

    num_heads: Count
    mlp_dim: Count
    head_dim: Count | None = None
    norm: NormOrder = "pre"
    modulation: ModulationFrom = "own"
    norm_kind: NormKind = "layer"
    norm_epsilon: Positive = 1e-6
    norm2_epsilon: Positive | None = None
    activation: str = "gelu_tanh"
    gated: bool = False
    biases: tuple[str, ...] = BIASES
    qk_norm: QKNorm = "none"
    logit_scale: Positive | None = None
    rotary: Rotary = "none"
    cross: Cross = "none"
    cross_head_dim: Count | None = None
    norm_memory: bool = False
    empty: Empty = "uniform"
    layer_scale_init: float | None = None
    dropout_rate: Decay = 0.0
    hidden_dropout: bool = True
    attention_dropout_rate: Decay = 0.0

    def __post_init__(self):
        # As JSON holds it.
        object.__setattr__(self, "biases", tuple(self.biases))
        check_activation(self.activation)
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), get_args(known))
        for name in self.biases:
            check_choice("bias", name, BIASES)
        for name in ("dropout_rate", "attention_dropout_rate"):
            check_rate(name, getattr(self, name))
        if self.logit_scale is not None and self.qk_norm == "l2":
            raise UserError("Queries and keys of length one have a learned factor", "Leave out logit_scale")
        if self.modulation != "own" and self.norm != "adaptive":
            raise UserError(f"Only adaptive norms are modulated, not {self.norm!r}", "Leave out modulation")

    def has_bias(self, name: str) -> bool:
        return name in self.biases


@dataclasses.dataclass(frozen=True)
class Execution:
    """How blocks are run. It changes results only by rounding, and is not part of the architecture.

    Args:
        dtype: of the computation and of the residual stream; parameters are float32.
        attention_implementation: see `vit_jax.nn.attention.attention`.
        scan: run the blocks of a stack as one `lax.scan` over their stacked parameters, so that compiling takes as long
            as for one block. Dropout draws other masks than without scan.
        remat: what a block recomputes in the backward pass to save memory: "none", "elementwise" (norms, activation and
            dropout, which costs next to nothing), "dots" (all but the products with its weight matrices, so attention
            too) or "full" (all of it).
        sow_attention: sow each block's attention weights as "intermediates".

    Raises:
        UserError: for a value that does not exist, or values that contradict each other.
    """

    dtype: DTypeLike = jnp.float32
    attention_implementation: Implementation = "auto"
    scan: bool = False
    remat: Remat = "none"
    sow_attention: bool = False

    def __post_init__(self):
        check_implementation(self.attention_implementation)
        check_choice("remat", self.remat, get_args(Remat))
        if self.scan and self.sow_attention:
            raise UserError("A scanned encoder cannot sow attention weights", "Set scan=False or sow_attention=False")


EXECUTION_KEYS = tuple(f.name for f in dataclasses.fields(Execution) if f.name != "dtype")


def execution_of(values: Mapping[str, Any], dtype: str) -> Execution:
    """How the blocks of a model are run: those of a model section's flat keys that say it, and the dtype by name."""
    own = {name: value for name, value in values.items() if name in EXECUTION_KEYS}
    return construct(Execution, own, "config.model", dtype=compute_dtype(dtype))


def check_choice(what: str, value: Any, known: Iterable[str]) -> None:
    """Raises a UserError when `value` is none of `known`."""
    if value not in tuple(known):
        raise UserError(f"Unknown {what} {value!r}", nearest(value, known))


def check_rate(what: str, value: float) -> None:
    """Raises a UserError unless `value` is a rate at which something can be dropped."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"{what} is {value}", "Use a rate of at least 0 and below 1")


# The keys that configs and checkpoints had before a block could do more, as what they stand for.
_GELUS = {"tanh": "gelu_tanh", "exact": "gelu_exact"}
_MLPS = {"gelu": {}, "swiglu": {"gated": True, "activation": "silu"}}
_OLDER = ("gelu", "layer_norm_epsilon", "mlp", "qkv_bias")
STYLE_KEYS = (*(f.name for f in dataclasses.fields(BlockStyle)), *_OLDER)


def gelu_of(gelu: str) -> str:
    """The activation that the older key `gelu` stands for; raises a UserError for a value that is neither."""
    check_choice("gelu", gelu, _GELUS)
    return _GELUS[gelu]


def block_style(values: Mapping[str, Any], **given: Any) -> BlockStyle:
    """A style from flat keys of a model section, in which the names of old are still understood.

    Args:
        values: `BlockStyle`'s arguments; or `gelu` ("tanh", "exact") for the activation, `mlp` ("gelu", "swiglu"),
            `layer_norm_epsilon`, `qkv_bias` (False: none of query, key and value has one).
        given: what the model decides.
    """
    values = dict(values)
    new: dict[str, Any] = {}
    if "layer_norm_epsilon" in values:
        new["norm_epsilon"] = values.pop("layer_norm_epsilon")
    if "gelu" in values:
        new["activation"] = gelu_of(values.pop("gelu"))
    if "mlp" in values:
        mlp = values.pop("mlp")
        check_choice("mlp", mlp, _MLPS)
        new |= _MLPS[mlp]
    if not values.pop("qkv_bias", True):
        new["biases"] = ("out", "fc1", "fc2")
    twice = sorted(new.keys() & values.keys())
    if twice:
        raise UserError(f"config.model says '{twice[0]}' twice, once by its older name", "Keep one of the two")
    return construct(BlockStyle, values | new, "config.model", siblings=_OLDER, **given)
