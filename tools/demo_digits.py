"""Train a digit classifier on drawn glyphs, build it for rpi4 and for this machine, run both, and show the result."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# The ten digits, 5 x 7 dots each, one row per line of dots.
GLYPHS = """
.###. ..#.. .###. ##### ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... #...# ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# #...#
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .###.
"""


class Digits(nn.Module):
    """A small residual network with a depthwise block: the layers that edge models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.residual = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                                      nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish())
        self.head = nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [N, 10] for images [N, 1, 28, 28]."""
        x = self.stem(image)
        x = functional.relu(x + self.residual(x))
        return self.head(self.depthwise(x).mean((2, 3)))


def draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` pictures of digits [count, 1, 28, 28], turned, scaled, moved and noisy, and their labels."""
    rows = [line.split() for line in GLYPHS.split("\n") if line]
    dots = torch.tensor([[[c == "#" for c in row[d]] for row in rows] for d in range(10)], dtype=torch.float32)
    glyphs = functional.interpolate(dots[:, None], size=(20, 15), mode="bilinear", align_corners=False)
    glyphs = functional.pad(glyphs, (6, 7, 4, 4))

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    labels = torch.randint(0, 10, (count,), generator=generator)
    angle, scale = uniform(-0.4, 0.4), uniform(0.8, 1.3)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack([torch.stack([cos, -sin, uniform(-0.2, 0.2)], 1),
                          torch.stack([sin, cos, uniform(-0.2, 0.2)], 1)], 1)
    grid = functional.affine_grid(matrix, [count, 1, 28, 28], align_corners=False)
    images = functional.grid_sample(glyphs[labels], grid, align_corners=False)
    return images + 0.4 * torch.randn(images.shape, generator=generator), labels


def train(steps: int) -> tuple[Digits, torch.Tensor, torch.Tensor, float]:
    """The trained network, unseen pictures and labels, and its accuracy on them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the network is too small to share
    generator = torch.Generator().manual_seed(1)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        images, labels = draw(64, generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    images, labels = draw(1000, generator)
    with torch.no_grad():
        return model, images, labels, float((model(images).argmax(1) == labels).float().mean())


def show(image: np.ndarray) -> str:
    """A picture [28, 28] as text, two rows of pixels per line."""
    shades = " .:-=+*#%@"
    levels = np.clip((image[::2] + image[1::2]) / 2 * 9, 0, 9).astype(int)
    return "\n".join("    " + "".join(shades[v] for v in row) for row in levels)


def edgec(*arguments: str) -> None:
    """Show a command and run it."""
    print(f"\n$ edgec {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-c", "from edgec.cli import main; main()", *arguments], check=True)


def main() -> None:
    """Train, build, verify, run, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bundles"), help="where the model and the bundles go")
    parser.add_argument("--steps", type=int, default=240, help="steps of training")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    model, images, labels, accuracy = train(options.steps)
    seconds = time.perf_counter() - start
    print(f"trained a digit classifier in {seconds:.0f} s: {accuracy:.1%} of 1000 new pictures right")
    exported = torch.export.export(model, (images[:1],))
    torch.export.save(exported, folder / "digits.pt2")

    import edgec as api

    loaded = api.load(folder / "digits.pt2")
    (folder / "digits.onnx").write_bytes(loaded.original)  # the same model for ONNX Runtime, to compare with
    name = loaded.graph.inputs[0].name
    np.savez(folder / "digits.npz", **{name: images[:8].numpy()})

    emulator = shutil.which("qemu-aarch64")
    for target in ("rpi4", "host"):
        edgec("build", f"{folder}/digits.pt2", "--target", target, "--require", "native",
              "--golden", f"{folder}/digits.npz", "-o", f"{folder}/digits-{target}")
    if emulator:
        edgec("verify", f"{folder}/digits-rpi4")
    edgec("verify", f"{folder}/digits-host")

    chosen = "digits-rpi4" if emulator else "digits-host"
    with api.open_bundle(folder / chosen) as engine:
        output = engine.outputs[0].name
        answers = [int(engine.run({name: images[i : i + 1].numpy()})[output].argmax()) for i in range(100)]
    right = sum(answer == int(label) for answer, label in zip(answers, labels, strict=False))
    print(f"\n{chosen} {'under qemu-aarch64' if emulator else 'on this machine'}: {right} of 100 right; "
          f"this one is read as {answers[0]}:\n{show(images[0, 0].numpy())}")
    edgec("bench", f"{folder}/digits-host", "--against", f"{folder}/digits.onnx", "--runs", "1000")
    if not emulator:
        print("\nqemu-aarch64 is not here, so the Raspberry Pi engine was built but not run: apt install qemu-user")
    print(f"\nThe Raspberry Pi engine is in {folder}/digits-rpi4: open report.html, and see engine/ for what to copy.")


if __name__ == "__main__":
    main()
