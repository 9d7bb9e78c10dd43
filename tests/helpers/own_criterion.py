"""A criterion as a user would write it in a module of their own."""

import torch


def keep_last(model, graph, batch, options):
    return torch.arange(graph.channels, dtype=torch.float32)
