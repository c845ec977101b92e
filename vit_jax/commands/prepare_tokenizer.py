"""Learn a tokenizer from texts.

examples:
  vit_jax prepare tokenizer --kind bpe --size 1024 --output bpe.json texts/*.txt
  vit_jax prepare tokenizer --kind bpe --size 1024 --output brown/bpe_1024.json brown/train.jsonl

It joins bytes within words, the commonest pairs first; the same texts give the same tokenizer. A config reads it with
--config.data.fields.text.tokenizer.name=bpe --config.data.fields.text.tokenizer.path=bpe.json.
"""

import argparse
import sys

from vit_jax.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="text files in UTF-8, JSONL with a text in each line, or 'texts/*.txt'"
    )
    parser.add_argument("--kind", choices=["bpe"], default="bpe", help="what it learns: bpe, pairs of bytes (bpe)")
    parser.add_argument(
        "--size", type=int, default=1024, metavar="TOKENS", help="of the vocabulary, marks included (1024)"
    )
    parser.add_argument("--output", metavar="FILE", help="where it goes (KIND_SIZE.json)")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from vit_jax.commands.output import output_file
    from vit_jax.data.sources import documents
    from vit_jax.data.tokenizers import bpe

    output = output_file(arguments.output or f"{arguments.kind}_{arguments.size}.json", suffixes=[".json"])
    source = documents.build(arguments.texts)
    texts = [source[i]["text"] for i in range(len(source))]
    with tqdm(total=max(0, arguments.size - 260), unit="pair", leave=False, disable=not sys.stderr.isatty()) as bar:
        content = bpe.trained(texts, arguments.size, bar.update)
    output.write_text(content, encoding="utf-8")
    characters = sum(map(len, texts))
    print(printable(f"{output}: {arguments.size} tokens, learned from {characters:,} characters in {len(texts)} texts"))
