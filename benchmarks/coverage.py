"""Which of timm's architectures vit_jax reads, written to docs/coverage.md.

  python -m benchmarks.coverage            # from the root: a few minutes, no download, little memory

Every architecture of timm's files of ViT, DeiT, hybrids, Mixer, ResNetV2, Swin and EfficientViT is built without
values, and its names and shapes of tensors and its config.json, as timm's hub has them, are given to the families of
vit_jax. That the numbers agree is what `make test-oracle` shows.
"""

import importlib
import json
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
FILE = Path(__file__).parents[1] / "docs" / "coverage.md"
MODULES = (
    "vision_transformer", "deit", "vision_transformer_hybrid", "mlp_mixer", "resnetv2", "swin_transformer",
    "swin_transformer_v2", "efficientvit_mit",
)  # fmt: skip
# What tensors of models that no family takes show.
_SIGNS = {
    ".running_mean": "batch norm",
    "norm_pre.": "a norm before the first block",
    ".q_norm.": "norms of queries and keys",
    ".attns.": "parallel blocks",
    ".attn.rel_pos": "relative positions",
    "mlp_tokens.gate": "gated mixing of tokens",
    "mlp_channels.gate": "gated mixing of tokens",
    ".alpha": "affine maps instead of norms",
    ".linear_tokens.": "affine maps instead of norms",
    ".conv3.weight": "another ResNet",
}
_HEADER = """# What is read of timm

Made by `python -m benchmarks.coverage` with timm {version}; do not edit. Of {count} architectures in timm's files of
ViT, DeiT, hybrids, Mixer, ResNetV2, Swin and EfficientViT {read} are read, {refused} are refused before anything is
computed. A weight file says which one it is in the config.json beside it.

| timm's file | read | refused |
| --- | --- | --- |
"""


def architectures() -> dict[str, list[str]]:
    """Names by timm's file."""
    import timm

    return {module: timm.list_models(module=module) for module in MODULES}


def judge(name: str) -> str:
    """'' where the architecture is read, else the reason why not."""
    import timm
    import torch
    from timm.models._hub import save_config_for_hf

    from vit_jax.checkpoints.published import Sidecar
    from vit_jax.checkpoints.source import families_of
    from vit_jax.errors import UserError

    with torch.device("meta"):
        model = timm.create_model(name)
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(model, f"{folder}/config.json")
        sidecar = Sidecar(json.loads(Path(folder, "config.json").read_text()))
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    try:
        found = [(f, p) for f in families_of() if (p := f.describe(shapes, sidecar)) is not None]
        if not found:
            return next((why for part, why in _SIGNS.items() if any(part in key for key in shapes)), "other tensors")
        [(family, published)] = found
        family.name_map(published.kwargs, published.layout).check(shapes, "The file")
    except UserError as error:
        sentence = str(error).partition(". ")[0].replace(repr(name), "it")
        return re.sub(r"\d+ positions", "a number of positions", re.sub(r" \(and \d+ more\)", "", sentence))
    return ""


def table(reasons: dict[str, dict[str, str]], version: str) -> str:
    """The page, from the reason (or '') of every architecture by timm's file."""
    refused = {module: sum(map(bool, found.values())) for module, found in reasons.items()}
    count = sum(map(len, reasons.values()))
    lines = [
        _HEADER.format(version=version, count=count, read=count - sum(refused.values()), refused=sum(refused.values()))
    ]
    lines += [f"| {m} | {len(found) - refused[m]} | {refused[m]} |\n" for m, found in reasons.items()]
    for module, found in reasons.items():
        lines.append(f"\n## {module}\n\nRead: {_listed(name for name, reason in found.items() if not reason)}\n")
        groups = defaultdict(list)
        for name, reason in found.items():
            groups[reason].append(name)
        for reason, _ in Counter(filter(None, found.values())).most_common():
            lines.append(f"\nRefused ({reason[0].lower() + reason[1:]}): {_listed(groups[reason])}\n")
    return "".join(lines)


def parse(page: str) -> dict[str, bool]:
    """Whether each architecture of the page is read."""
    lines = [line for line in page.splitlines() if line.startswith(("Read: ", "Refused ("))]
    return {
        name: line.startswith("Read") for line in lines for name in re.findall(r"`(\w+)`", line.rpartition(": ")[2])
    }


def _listed(names) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


def main() -> None:
    # Beside torch for CPUs torchvision imports only after this.
    importlib.import_module("tests.parity.conftest")
    import timm

    reasons = {module: {name: judge(name) for name in names} for module, names in architectures().items()}
    FILE.write_text(table(reasons, timm.__version__), encoding="utf-8")
    print(FILE.read_text(encoding="utf-8")[:1500])


if __name__ == "__main__":
    from benchmarks.runs import as_command  # not in processes that this one starts

    as_command(main)
