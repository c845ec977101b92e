"""The libraries that we compare with, where they are installed."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
    if torch.version.cuda is None:
        # torchvision's wheel is built for CUDA: beside a CPU torch it fails to import unless these are declared.
        torchvision_operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            torchvision_operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
