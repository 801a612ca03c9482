"""Training of graphs: losses, the loop with its checkpoints, and what pruning must know of gradients."""
