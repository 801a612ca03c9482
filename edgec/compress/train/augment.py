"""Random changes of pictures that leave their meaning as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgec.errors import UserError

_FORMS = "flip (left and right), shift:N (up to N pixels, zeros come in)"


def check_augmentations(texts: Sequence[str]) -> None:
    """Raises UserError for a text that is no augmentation."""
    for text in texts:
        name, _, number = text.partition(":")
        if not (text == "flip" or (name == "shift" and number.isdigit() and int(number) > 0)):
            raise UserError(f"there is no augmentation {text!r}", expected=_FORMS)


def augment(feeds: Mapping[str, np.ndarray], texts: Sequence[str],
            random: np.random.Generator) -> dict[str, np.ndarray]:
    """The feeds with every picture (four axes; channels second or last) changed at random, each in its own way.

    Shapes stay. The same generator state gives the same pictures.
    """
    result = dict(feeds)
    for name, array in feeds.items():
        if array.ndim == 4:
            first = array.shape[1] in (1, 3) and array.shape[3] not in (1, 3)
            pictures = array if first else array.transpose(0, 3, 1, 2)
            for text in texts:
                pictures = _flip(pictures, random) if text == "flip" else _shift(pictures, int(text[6:]), random)
            result[name] = np.ascontiguousarray(pictures if first else pictures.transpose(0, 2, 3, 1))
    return result


def _flip(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    flipped = random.random(len(pictures)) < 0.5
    return np.where(flipped[:, None, None, None], pictures[..., ::-1], pictures)


def _shift(pictures: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    padded = np.pad(pictures, [(0, 0), (0, 0), (most, most), (most, most)])
    height, width = pictures.shape[2:]
    corners = random.integers(0, 2 * most, (len(pictures), 2), endpoint=True)
    return np.stack([p[:, y:y + height, x:x + width] for p, (y, x) in zip(padded, corners, strict=True)])
