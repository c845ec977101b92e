"""SentencePiece models, as the library of that name reads them."""

from sentencepiece import SentencePieceProcessor

from vit_jax.data.vocabularies import Vocabulary, damaged


def piece_model(file: Vocabulary) -> SentencePieceProcessor:
    """The model in a file.

    Raises:
        UserError: there is none in it.
    """
    library = SentencePieceProcessor()
    try:
        library.LoadFromSerializedProto(file.data)
    except RuntimeError as error:  # all that the library says of any damage
        raise damaged(file.name, "SentencePiece finds no model in it") from error
    return library
