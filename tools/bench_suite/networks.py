"""Networks with random weights and random BatchNorm statistics as ONNX files: `networks.py NAME FILE`, in a process.

Those of the literature come from torchvision, of which only the Python code is used; the rest is written here.
Source: torchvision's model zoo; YOLO: Jocher et al., YOLOv5 and YOLOv8 (CSP blocks, SPPF, PAN); DS-CNN: Zhang et al.,
Hello Edge: Keyword Spotting on Microcontrollers, 2017; ViT-tiny: Touvron et al., DeiT, 2021.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Net = tuple[nn.Module, tuple[int, ...]]


class Conv(nn.Sequential):
    """Convolution, BatchNorm, activation; the padding keeps the size at stride 1."""

    def __init__(self, c: int, k: int, size: int = 3, stride: int = 1, groups: int = 1,
                 act: Callable[[], nn.Module] = nn.SiLU) -> None:
        super().__init__(nn.Conv2d(c, k, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(k), act())


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(c, c), Conv(c, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        return x + self.body(x)


class Csp(nn.Module):
    """Half of the channels go through residual blocks, and every stage is concatenated (C2f)."""

    def __init__(self, c: int, k: int, depth: int) -> None:
        super().__init__()
        self.enter, self.leave = Conv(c, k, 1), Conv((depth + 2) * k // 2, k, 1)
        self.blocks = nn.ModuleList(Residual(k // 2) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """A detector of YOLO's kind: CSP backbone, pooling pyramid, path aggregation, one head for each of three scales."""

    def __init__(self, width: int = 16, outputs: int = 85) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(Conv(3, w, 3, 2), Conv(w, 2 * w, 3, 2), Csp(2 * w, 2 * w, 1))
        self.small = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), Csp(4 * w, 4 * w, 2))
        self.middle = nn.Sequential(Conv(4 * w, 8 * w, 3, 2), Csp(8 * w, 8 * w, 2))
        self.large = nn.Sequential(Conv(8 * w, 16 * w, 3, 2), Csp(16 * w, 16 * w, 1))
        self.shrink, self.spread = Conv(16 * w, 8 * w, 1), Conv(32 * w, 16 * w, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.up = nn.Upsample(scale_factor=2)
        self.join = nn.ModuleList([Csp(24 * w, 8 * w, 1), Csp(12 * w, 4 * w, 1), Csp(12 * w, 8 * w, 1),
                                   Csp(24 * w, 16 * w, 1)])
        self.down = nn.ModuleList([Conv(4 * w, 4 * w, 3, 2), Conv(8 * w, 8 * w, 3, 2)])
        self.heads = nn.ModuleList(nn.Sequential(Conv(c, 4 * w), nn.Conv2d(4 * w, outputs, 1))
                                   for c in (4 * w, 8 * w, 16 * w))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        small = self.small(self.stem(x))
        middle = self.middle(small)
        pooled = [self.shrink(self.large(middle))]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        large = self.spread(torch.cat(pooled, 1))
        middle = self.join[0](torch.cat([self.up(large), middle], 1))
        small = self.join[1](torch.cat([self.up(middle), small], 1))
        middle = self.join[2](torch.cat([self.down[0](small), middle], 1))
        large = self.join[3](torch.cat([self.down[1](middle), large], 1))
        scales = [head(s).flatten(2) for head, s in zip(self.heads, (small, middle, large), strict=True)]
        return torch.cat(scales, 2).transpose(1, 2).sigmoid()


class Lstm(nn.Module):
    """Two layers over a sequence of features, and a classifier of the last step."""

    def __init__(self, features: int = 64, hidden: int = 128, classes: int = 12) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(features, hidden, 2, batch_first=True), nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        return self.head(self.lstm(x)[0][:, -1])


def ds_cnn() -> Net:
    """Keyword spotting on 49 x 10 features, the large form of the paper."""
    body: list[nn.Module] = [nn.Conv2d(1, 276, (10, 4), (2, 1), (5, 1), bias=False), nn.BatchNorm2d(276), nn.ReLU()]
    for i in range(5):
        body += [Conv(276, 276, 3, 2 if i == 0 else 1, 276, nn.ReLU), Conv(276, 276, 1, act=nn.ReLU)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(276, 12)), (1, 1, 49, 10)


def vit_tiny() -> Net:
    """DeiT-tiny: 12 layers, 192 wide, 3 heads."""
    net = _torchvision().models.VisionTransformer(image_size=224, patch_size=16, num_layers=12, num_heads=3,
                                                  hidden_dim=192, mlp_dim=768)
    nn.init.normal_(net.heads.head.weight, 0, 0.02)  # zeros before training
    return net, (1, 3, 224, 224)


def zoo(name: str) -> Callable[[], Net]:
    """A classifier of torchvision at 224 x 224."""
    return lambda: (getattr(_torchvision().models, name)(), (1, 3, 224, 224))


NETWORKS: dict[str, Callable[[], Net]] = {
    **{name: zoo(name) for name in (
        "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
        "shufflenet_v2_x1_0", "squeezenet1_1", "vgg11")},
    "yolo": lambda: (Yolo(), (1, 3, 320, 320)), "ds_cnn": ds_cnn, "vit_tiny": vit_tiny,
    "lstm": lambda: (Lstm(), (1, 50, 64)),
}


def randomize(net: nn.Module) -> nn.Module:
    """BatchNorm statistics and factors as after training, where normalization is not the identity."""
    generator = torch.Generator().manual_seed(7)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (("running_mean", -0.2, 0.2), ("running_var", 0.5, 1.5)):
                buffer = module.get_buffer(name)
                buffer.copy_(uniform(buffer, low, high))
            module.weight.data.copy_(uniform(module.weight, 0.5, 1.2))
            module.bias.data.copy_(uniform(module.bias, -0.2, 0.2))
    return net.eval()


def _torchvision() -> Any:
    """The Python part of torchvision; its compiled operators need a CUDA build of torch, classifiers do not."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision


def main() -> None:
    """Write one network."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        net, shape = NETWORKS[sys.argv[1]]()
        torch.onnx.export(randomize(net), (torch.randn(shape),), sys.argv[2], dynamo=True, external_data=False,
                          verbose=False, input_names=["input"], output_names=["output"])


if __name__ == "__main__":
    main()
