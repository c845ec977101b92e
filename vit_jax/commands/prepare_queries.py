"""Make a list of queries out of texts: what captions are searched for, and balanced by, with 'prepare pairs'.

examples:
  vit_jax prepare queries --output queries.txt wikipedia/*.txt
  vit_jax prepare queries --output queries.txt --least 20 --bigrams 5000 captions.jsonl

CLIP's list of 500,000 was all words that occur at least 100 times in the English Wikipedia, pairs of words with high
pointwise mutual information, and names of articles and WordNet's synsets, which can be appended: one query a line.
"""

import argparse

from vit_jax.errors import UserError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="text files in UTF-8, JSONL with a text in each line, or 'texts/*.txt'"
    )
    parser.add_argument("--least", type=int, default=100, metavar="TIMES", help="that a word or a pair occurs (100)")
    parser.add_argument("--bigrams", type=int, default=100_000, metavar="PAIRS", help="of words, at most (100000)")
    parser.add_argument("--output", default="queries.txt", metavar="FILE", help="where it goes (queries.txt)")


def run(arguments: argparse.Namespace) -> None:
    from vit_jax.commands.output import output_file
    from vit_jax.data.queries import learned
    from vit_jax.data.sources import documents

    if arguments.least < 1 or arguments.bigrams < 0:
        raise UserError("--least is below 1, or --bigrams below 0", "Give whole numbers from there")
    output = output_file(arguments.output, suffixes=[".txt"])
    source = documents.build(arguments.texts)
    words, pairs = learned((source[k]["text"] for k in range(len(source))), arguments.least, arguments.bigrams)
    if not words:
        raise UserError(f"No word occurs {arguments.least} times", "Give more texts, or a lower --least")
    output.write_text("".join(f"{query}\n" for query in (*words, *pairs)), encoding="utf-8")
    print(printable(f"{output}: {len(words):,} words and {len(pairs):,} pairs of words out of {len(source):,} texts"))
