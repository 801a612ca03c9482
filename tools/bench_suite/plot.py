"""Draw what results.py found: `plot.py DATA.json FILE.png`, in the peers' environment, which has matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend must be chosen first


def main() -> None:
    """Bars of the peers' time over ours; above the line at 1 we are faster."""
    data = json.loads(Path(sys.argv[1]).read_text())
    labels, peers = data["labels"], {p: values for p, values in data["peers"].items() if any(values)}
    figure, axes = pyplot.subplots(figsize=(max(6, 0.5 + 0.8 * len(labels)), 4.5))
    width = 0.8 / max(1, len(peers))
    for index, (peer, values) in enumerate(peers.items()):
        places = [i + (index - (len(peers) - 1) / 2) * width for i in range(len(labels))]
        axes.bar(places, [1 / v if v else 0 for v in values], width, label=peer)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("time of the peer / time of edgec")
    axes.set_title(data["title"], fontsize=8)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=120)


if __name__ == "__main__":
    main()
