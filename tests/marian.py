"""The files of a small Marian vocabulary."""

import io
import json

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

TEXTS = {
    "source": "The cat sat on the mat, and the other cat sat on the other mat.",
    "target": "Die Katze saß auf der Matte, und die andere Katze saß auf der anderen Matte.",
}


def write_vocabulary(folder, size=22, extra=()):
    """source.spm, target.spm and the vocab.json that both share, as Marian's folders have them."""
    pieces = {}
    for side, text in TEXTS.items():
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter([text, text.lower()] * 5), model_writer=model, vocab_size=size, minloglevel=2,
            unk_id=0, bos_id=-1, eos_id=1, pad_id=-1,
        )  # fmt: skip
        (folder / f"{side}.spm").write_bytes(model.getvalue())
        library = SentencePieceProcessor(model_proto=model.getvalue())
        pieces |= dict.fromkeys(library.id_to_piece(i) for i in range(2, size))
    names = ["</s>", "<unk>", *extra, *sorted(pieces), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}, ensure_ascii=False))
    return names
