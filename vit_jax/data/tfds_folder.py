"""What a folder that TFDS has prepared says about itself, read as data: nothing that its files name is imported.

TFDS itself imports the module of each class that `features.json` names, wherever it lies, so its own reading is not for
folders that others wrote. Here such a name is only compared.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from vit_jax.data.files import read_bytes
from vit_jax.data.source import check_class_count
from vit_jax.errors import UserError, shortened

_NAME = re.compile(r"([a-z][a-z0-9_]*)(?:/(\w[\w.+-]*))?(?::((?:\d+|\*)\.(?:\d+|\*)\.(?:\d+|\*)))?", re.ASCII)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)
_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features\.(?:\w+\.)*(\w+)", re.ASCII)
_MOST_BYTES = 64 * 2**20  # of a JSON file or a list of class names
_MOST_EXAMPLES = 2**40


@dataclass(frozen=True)
class Split:
    """The files of one split and the examples in each."""

    files: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Args:
        path: its folder.
        file_format: of its records, such as "array_record".
        splits: by name.
        images: features that are encoded images.
        labels: features that are class labels, with the names of their classes.
        kinds: the name that every feature has in a record, such as "objects/bbox", with TFDS's class of it.
    """

    path: str
    file_format: str
    splits: Mapping[str, Split]
    images: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, str]


def data_folder(data_dir: str | None) -> str:
    """Where TFDS keeps data sets, by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def split_name(dataset: str) -> tuple[str, str | None, str | None]:
    """Name, config and version of 'name', 'name/config' or 'name/config:1.0.0'.

    Raises:
        UserError: for anything else, such as a namespace, behind which there is code to fetch.
    """
    found = _NAME.fullmatch(dataset) if isinstance(dataset, str) else None
    if found is None:
        raise UserError(
            f"{shortened(repr(dataset), 200)} cannot name a data set",
            "Write name, name/config or name/config:1.0.0, in lower-case letters, digits and underscores",
        )
    return found[1], found[2], found[3]


def find(dataset: str, data_dir: str | None) -> str | None:
    """The folder of a prepared data set, of its newest version where none is asked for; None where there is none.

    Raises:
        UserError: for a name that is none.
    """
    name, config, version = split_name(dataset)
    folder = epath.Path(data_folder(data_dir)) / name
    default = folder / ".config" / "metadata.json"
    if config is None and _exists(default):
        config = _read_json(default).get("default_config_name")
        if not isinstance(config, str) or _NAME.fullmatch(f"a/{config}") is None:
            raise UserError(f"{default} does not name a config", f"Write {name}/CONFIG, or prepare it again")
    if config is not None:
        folder = folder / config
    wanted = re.compile(re.escape(version).replace(r"\*", r"\d+") if version else ".*")
    versions = [v for v in _names(folder) if _VERSION.fullmatch(v) and wanted.fullmatch(v)]
    versions = sorted((v for v in versions if _exists(folder / v / "features.json")), key=_order)
    return os.fspath(folder / versions[-1]) if versions else None


def read(path: str) -> Prepared:
    """The metadata of a prepared data set.

    Args:
        path: its folder, as `find` gives it.

    Raises:
        UserError: naming the file, when one of them is missing, damaged or says what cannot be, and when features.json
            names a class that is not TFDS's own.
    """
    folder = epath.Path(path)
    info, features = _read_json(folder / "dataset_info.json"), _read_json(folder / "features.json")
    refuse_foreign_classes(folder / "features.json", features)
    name, file_format = (_get(info, key, str, folder / "dataset_info.json") for key in ("name", "fileFormat"))
    splits = {}
    for entry in _get(info, "splits", list, folder / "dataset_info.json"):
        key, split = _split(folder, name, file_format, entry)
        splits[key] = split
    if len(splits) != len(info["splits"]):
        raise _wrong(folder / "dataset_info.json", "two splits of one name")
    members = _get(features, "featuresDict", dict, folder / "features.json")
    members = _get(members, "features", dict, folder / "features.json")
    images, labels = [], {}
    for key, feature in members.items():
        kind = feature.get("pythonClassName") if isinstance(feature, dict) else None
        kind = kind.rpartition(".")[2] if isinstance(kind, str) else ""
        if kind in ("Image", "LabeledImage"):
            images.append(key)
        elif kind == "ClassLabel":
            labels[key] = _class_names(folder, key, feature)
    return Prepared(path, file_format, splits, tuple(images), labels, dict(_kinds(features, "")))


def _kinds(feature: Any, name: str) -> Iterator[tuple[str, str]]:
    """What the leaves of a feature are called in a record: a dictionary's behind a slash, a sequence's as itself."""
    waiting = [(feature, name)]
    while waiting:
        feature, name = waiting.pop()
        if not isinstance(feature, dict):
            continue
        if isinstance(members := (feature.get("featuresDict") or {}), dict) and members:
            inside = members.get("features")
            inside = inside.items() if isinstance(inside, dict) else ()
            waiting += [(member, f"{name}/{key}".lstrip("/")) for key, member in inside]
        elif isinstance(sequence := feature.get("sequence"), dict):
            waiting.append((sequence.get("feature"), name))
        elif isinstance(kind := feature.get("pythonClassName"), str):
            yield name, kind.rpartition(".")[2]


def refuse_foreign_classes(path: epath.PathLike, features: Any = None) -> None:
    """Checks every class that a features.json names, at any depth.

    Raises:
        UserError: when one is not TFDS's own.
    """
    for name in _class_names_in(_read_json(path) if features is None else features):
        if not isinstance(name, str) or not _OWN_CLASS.fullmatch(name):
            raise UserError(
                f"{os.fspath(path)} names the class {shortened(repr(name), 200)}, whose code would have to be run",
                "Only the features of TFDS itself are read: write the data set again with them",
            )


def _class_names_in(values: Any) -> Iterator[Any]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, member in value.items():
                # "type" was the key before TFDS 4.4, and is a fine name for a feature, which is an object.
                if key in ("pythonClassName", "python_class_name") or (key == "type" and isinstance(member, str)):
                    yield member
                else:
                    waiting.append(member)


def _split(folder: epath.Path, dataset: str, file_format: str, entry: Any) -> tuple[str, Split]:
    path = folder / "dataset_info.json"
    if not isinstance(entry, dict):
        raise _wrong(path, "a split that is not an object")
    name, lengths = _get(entry, "name", str, path), _get(entry, "shardLengths", list, path, [])
    lengths = [_number(n, path, "length of a shard") for n in lengths]
    if sum(lengths) > _MOST_EXAMPLES:
        raise _wrong(path, f"{sum(lengths)} examples in the split {name!r}")
    template = _get(entry, "filepathTemplate", str, path, "") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    files = []
    for shard in range(len(lengths)):
        values = {
            "{DATASET}": dataset,
            "{SPLIT}": name,
            "{FILEFORMAT}": file_format,
            "{SHARD_INDEX}": f"{shard:05d}",
            "{NUM_SHARDS}": f"{len(lengths):05d}",
            "{SHARD_X_OF_Y}": f"{shard:05d}-of-{len(lengths):05d}",
        }
        file = re.sub(r"\{\w+\}", lambda found, values=values: values.get(found[0], found[0]), template)
        if re.search(r"[/\\{}\0]", file) or len(file) > 255:
            raise _wrong(path, f"the file name {shortened(repr(file), 200)}")
        files.append(os.fspath(folder / file))
    return name, Split(tuple(files), tuple(lengths))


def _class_names(folder: epath.Path, key: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in `KEY.labels.txt`; numbers where TFDS was told only how many there are."""
    path = folder / "features.json"
    label = _get(feature, "classLabel", dict, path, {})
    count = check_class_count(path, _number(label.get("numClasses", 0), path, "number of classes"))
    names_file = folder / f"{key}.labels.txt" if re.fullmatch(r"[\w.-]+", key) else None
    if names_file is None or not _exists(names_file):
        return tuple(str(k) for k in range(count))
    try:
        text = _read(names_file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{names_file} is not UTF-8", "Write it again") from error
    names = tuple(line.strip() for line in text.split("\n") if line.strip())
    if len(names) != count or len(set(names)) != count:
        raise UserError(
            f"{names_file} has {len(names)} names, {len(set(names))} of them different, for {count} classes",
            "Give every class a line and a name of its own: a name must not hold the end of a line",
        )
    return names


def _get(values: Any, key: str, kind: type, path: epath.PathLike, default: Any = None) -> Any:
    """`values[key]`, which must be a `kind`."""
    value = values.get(key, default) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise _wrong(path, f"no {key!r}" if value is None else f"{shortened(repr(value), 100)} as {key!r}")
    return value


def _number(value: Any, path: epath.PathLike, what: str) -> int:
    """A count, which may be text: so are all numbers of 64 bits in the JSON of protocol buffers."""
    if not isinstance(value, (int, str)) or isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,13}", str(value)):
        raise _wrong(path, f"the {what} {shortened(repr(value), 100)}")
    return int(value)


def _wrong(path: epath.PathLike, what: str) -> UserError:
    return UserError(f"{os.fspath(path)} has {what}", "Fetch or prepare the data set again")


def _read_json(path: epath.PathLike) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except RecursionError as error:
        raise UserError(f"{os.fspath(path)} is nested too deeply", "Fetch it again") from error
    except ValueError as error:  # no JSON, not UTF-8, a number of thousands of digits
        raise UserError(f"{os.fspath(path)} is not JSON: {error}", "Fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{os.fspath(path)} holds no JSON object", "Fetch it again")
    return value


def _read(path: epath.PathLike) -> bytes:
    try:
        return read_bytes(path, _MOST_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{os.fspath(path)} could not be read: {reason}", "Check that it exists and may be read"
        ) from error


def _exists(path: epath.Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be entered, a name that is too long
        return False


def _names(folder: epath.Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{os.fspath(folder)} could not be listed: {error.strerror or error}", "Check that it may be read"
        ) from error


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
