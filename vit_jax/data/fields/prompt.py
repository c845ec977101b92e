"""A text that people type to say what they mean in an image: tokens of which no example has any."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from vit_jax.data.field import Context, Spec
from vit_jax.data.fields import tokens
from vit_jax.data.fields.tokens import Tokens
from vit_jax.naming import construct


@dataclass(frozen=True)
class Prompt(Tokens):
    """The tokens of `Tokens`, which `vit_jax.load(path).tokenize` and evaluators make of texts of their own."""

    typed: ClassVar[bool] = True

    def spec(self, name: str) -> dict[str, Spec]:
        return {}

    def caption(self, name: str, row: Any) -> str:
        return ""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "name": "prompt"}


def build(*, data: Context, **of_tokens: Any) -> Prompt:
    """A text that no source gives: a checkpoint keeps with it how texts are read.

    Args:
        of_tokens: see `vit_jax.data.fields.tokens.build`.
    """
    made = construct(tokens.build, of_tokens, "config.data.fields", data=data)
    return Prompt(**{each.name: getattr(made, each.name) for each in fields(made)})
