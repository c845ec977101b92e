"""torchvision beside a torch for CPUs: importing this makes it importable.

torchvision's wheel is for CUDA: beside torch for CPUs its import fails for want of two declarations.
"""

import torch

if torch.version.cuda is None:
    # The library object must live as long as the process.
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
