"""What small models of text learn in minutes on two cores: GPT, BERT and the Transformer of 2017.

On the Brown corpus (`vit_jax prepare brown`) a GPT beside n-grams, and a BERT: hidden words, next sentences, and the
genre of a passage by fine-tuning it, by its features, and from scratch. On the names of emoji (`vit_jax prepare cldr`)
a Transformer translates, beside copying.

    python benchmarks/text.py --data texts --workdir runs/text

`--data` is the folder with `brown/` and `cldr/` as the two commands write them; tokenizers are learned into it. Every
run (experiment, seed) is a folder of its own; what is done is skipped and what was interrupted goes on, so the command
can be stopped and started again at will. After every run it writes its tables to `table.md` in the workdir, with all
figures in `results.json`.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command, fit, once, spread, write_tables
from benchmarks.witten_bell import bits_per_byte
from vit_jax.checkpoints.load import load
from vit_jax.commands.main import main as vit_jax
from vit_jax.errors import UserError

ORDERS = 6
PROMPTS = ("The jury said", "She looked at", "The most important")
FORMS = {"skin_tone": '"name: skin tone"', "other": "others"}
# Of the first table the columns, by the run that they are from.
GPT, BERT, GENRE, CLDR = "gpt", "bert", ("genre", "genre-scratch", "genre-features"), "cldr"

Found = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="where brown/ and cldr/ are")
    parser.add_argument("--workdir", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each experiment (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each")
    arguments = parser.parse_args()
    data, workdir, smoke = arguments.data, arguments.workdir, ",smoke" if arguments.smoke else ""
    brown, cldr = data / "brown", data / "cldr"
    for file, size, texts in (
        (brown / "bpe_1024.json", 1024, brown / "train.jsonl"),
        (brown / "bpe_4096.json", 4096, brown / "train.jsonl"),
        (cldr / "de_bpe_1024.json", 1024, cldr / "de_train.tsv"),
    ):
        _tokenizer(file, size, texts)
    workdir.mkdir(parents=True, exist_ok=True)

    grams = once(workdir / "ngrams.json", lambda: _grams(brown))
    copied = once(workdir / "copied.json", lambda: {form: _copied(cldr / f"de_test_{form}.tsv") for form in FORMS})
    found: Found = {}
    for seed in range(arguments.seeds):
        bert = workdir / f"bert-{seed}"
        for name, spec in (
            (GPT, f"brown_gpt:data={brown}"),
            (CLDR, f"cldr_translate:data={cldr}"),
            (BERT, f"brown_bert:data={brown},texts=genre_texts"),
            (GENRE[0], f"brown_genre:data={brown},init={bert}"),
            (GENRE[1], f"brown_genre:data={brown}"),
            (GENRE[2], f"brown_genre:data={brown},init={bert},frozen"),
        ):
            found.setdefault(name, []).append(fit(workdir / f"{name}-{seed}", f"{spec},seed={seed}{smoke}"))
            report(workdir, grams, copied, found)
    samples = once(workdir / "samples.json", lambda: dict(zip(PROMPTS, _samples(workdir / f"{GPT}-0"), strict=True)))
    for prompt, text in samples.items():
        print(f"\n{prompt} ...\n  {text}")


def report(workdir: Path, grams: dict[str, float], copied: dict[str, float], found: Found) -> None:
    """Prints the tables and writes them, and all figures, into the workdir."""

    def row(what: str, name: str, key: str, percent: bool = True) -> list[list[str]]:
        cells = [run[key] for run in found.get(name, ()) if key in run]
        return [[what, spread(cells, percent), _seconds(found[name])]] if cells else []

    brown = [[f"{order}-grams, Witten-Bell", f"{bits:.2f}", ""] for order, bits in grams.items()]
    brown += row("GPT", GPT, "val/bits_per_byte", percent=False)
    bert = [
        *row("the commonest word", BERT, "val/commonest_accuracy"),
        *row("BERT, hidden word pieces", BERT, "val/accuracy"),
        *row("BERT, next sentence or not", BERT, "val/next_accuracy"),
        *row("genre, from scratch", GENRE[1], "val/accuracy"),
        *row("genre, fine-tuned", GENRE[0], "val/accuracy"),
        *row("genre, features, linear probe", GENRE[2], "probe/accuracy"),
        *row("genre, features, k-NN", GENRE[2], "knn/accuracy"),
    ]
    names = []
    for form, said in FORMS.items():
        names.append([f"{said}: copying", f"{100 * copied[form]:.1f}", ""])
        for search, suffix in (("greedy", "_greedy"), ("4 beams", "")):
            for metric in ("exact", "chrf"):
                key = f"{form}{suffix}/{metric}"
                names += row(f"{said}: {search}, {metric}", CLDR, key, percent=metric == "exact")
    tables = [
        (["Brown, held out", "bits per byte", "seconds"], brown),
        (["Brown, held out", "right, %", "seconds"], bert),
        (["names of emoji, held out", "exact, % (chrF: of 100)", "seconds"], names),
    ]
    write_tables(workdir, tables, {"ngrams": grams, "copied": copied, "runs": found})


def _seconds(runs: Sequence[dict[str, float]]) -> str:
    return f"{statistics.mean(run['seconds'] for run in runs):.0f}"


def _tokenizer(path: Path, size: int, texts: Path) -> None:
    if not path.exists():
        _run("prepare", "tokenizer", "--kind", "bpe", "--size", str(size), "--output", str(path), str(texts))


def _run(*arguments: str) -> None:
    if vit_jax(arguments):
        raise UserError(f"vit_jax {' '.join(arguments)} failed", "Its own message says why")


def _grams(brown: Path) -> dict[str, float]:
    """Bits per byte of the held-out texts under n-grams of the others, by their order."""
    texts = [_bytes(brown / f"{part}.jsonl") for part in ("train", "test")]
    return {str(order): bits for order, bits in enumerate(bits_per_byte(*texts, ORDERS), 1)}


def _bytes(path: Path) -> bytes:
    """The texts of a file of documents, one after the other."""
    return "\n".join(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()).encode()


def _copied(path: Path) -> float:
    """The share of names that are the same in both languages."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return sum(row["source"] == row["target"] for row in rows) / len(rows)


def _samples(run: Path) -> list[str]:
    """How a language model goes on."""
    found = load(run).generate(list(PROMPTS), seed=0, tokens=60, temperature=0.8, top_p=0.95)
    return [str(texts[0]) for texts in found]


if __name__ == "__main__":
    as_command(main)
