"""What every pruned graph must satisfy."""

from __future__ import annotations

import numpy as np

from edgec.compress.prune.groups import Coupled, find_groups
from edgec.compress.prune.remove import remove_channels, zero_channels
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph
from edgec.ir.verify import verify
from tests.models import feeds

TOLERANCE = 2e-5  # of the largest output: sums over fewer channels are rounded in another order


def assert_removal_equals_zeros(graph: Graph, ratio: float = 0.5, seed: int = 0) -> Coupled:
    """Remove random units of every group; the graph verifies and computes what the graph with zeros computes."""
    coupled = find_groups(graph)
    random = np.random.default_rng(seed)
    removed = {g: random.permutation(g.size)[:int(g.size * ratio)] for g in coupled.groups}
    small, zeroed = remove_channels(graph, removed), zero_channels(graph, removed)
    assert verify(small) == []
    arrays = feeds(graph)
    results = run_session(open_session(to_model(small).SerializeToString()), arrays)
    expected = run_session(open_session(to_model(zeroed).SerializeToString()), arrays)
    for name, array in expected.items():
        scale = float(np.abs(array).max())
        assert scale > 0, f"{name} is all zero: the comparison says nothing"
        np.testing.assert_allclose(results[name], array, rtol=0, atol=TOLERANCE * scale, err_msg=name)
    return coupled


def sizes(coupled: Coupled) -> list[int]:
    """Units of each group, largest first."""
    return sorted((g.size for g in coupled.groups), reverse=True)
