"""Evidence over known numbers, for tests of what needs embeddings; no learner is trained."""

import torch

from alprune.acquisition import Evidence


class KnownEvidence:
    """`embeddings (n, d)`, `labelled_embeddings (m, d)` and probabilities, all given or random."""

    gradient_factors = Evidence.gradient_factors

    def __init__(self, embeddings, labelled_embeddings=None, probabilities=None, classes=3):
        draws = torch.Generator().manual_seed(1)
        self.embeddings = torch.as_tensor(embeddings, dtype=torch.float32)
        n, d = self.embeddings.shape
        if labelled_embeddings is None:
            labelled_embeddings = torch.empty(0)  # as the real evidence without labelled points
        self.labelled_embeddings = torch.as_tensor(labelled_embeddings, dtype=torch.float32)
        m = len(self.labelled_embeddings)
        self.candidates = torch.arange(100, 100 + n)
        self.labelled = torch.arange(m)
        self.labels = torch.arange(m) % classes
        self.classes, self.device = classes, torch.device("cpu")
        if probabilities is None:
            probabilities = torch.randn(n, classes, generator=draws).softmax(1)
        self.probabilities = torch.as_tensor(probabilities, dtype=torch.float32)

    def score(self, function):
        return function(self.probabilities)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)
