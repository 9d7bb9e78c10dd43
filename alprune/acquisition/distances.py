"""Squared Euclidean distances among many rows, a block at a time, without a copy of the rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alprune.acquisition.evidence import Evidence
from alprune.errors import AcquisitionError

# Distances held at a time: 8 MiB in float32.
BLOCK = 2**21


@dataclass(frozen=True)
class Points:
    """Rows with their squared norms.

    Attributes:
        rows: `(n, d)`, floating point.
        norms: Squared norms of the rows, `(n,)`.
    """

    rows: Tensor
    norms: Tensor

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, which: slice | Tensor) -> "Points":
        return Points(self.rows[which], self.norms[which])

    def to(self, others: "Points") -> Tensor:
        """Return the squared distances to other points, `(n, m)`; those of equal rows are 0.

        They are computed as `|x|^2 + |y|^2 - 2 x.y`; what is no more than the rounding error of
        that sum counts as 0. The rows should be centred, or the rounding hides small distances.
        """
        scale = self.norms[:, None] + others.norms
        squared = torch.addmm(scale, self.rows, others.rows.T, alpha=-2)
        rounding = 32 * torch.finfo(squared.dtype).eps
        return squared.masked_fill_(squared <= scale.mul_(rounding), 0)

    def blocks(self, others: "Points") -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of the rows with their squared distances to all others, `(block, m)`."""
        for part in self.parts(len(others)):
            yield part, self[part].to(others)

    def parts(self, columns: int) -> Iterator[slice]:
        """Yield slices of the rows for which `columns` values each make up one block."""
        step = max(1, BLOCK // max(1, columns))
        for begin in range(0, len(self), step):
            yield slice(begin, begin + step)

    def nearest(self, others: "Points") -> Tensor:
        """Return the squared distance to the nearest of the others, `(n,)`; inf without any."""
        result = torch.full_like(self.norms, torch.inf)
        if len(others):
            for part, squared in self.blocks(others):
                result[part] = squared.amin(1)
        return result


def make_points(rows: Tensor, what: str = "embeddings") -> Points:
    """Measure the rows' norms.

    Raises:
        AcquisitionError: A row is not finite, or its squared norm isn't.
    """
    norms = torch.linalg.vector_norm(rows, dim=1).square_()
    check_finite(norms, what)
    return Points(rows, norms)


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity in values or norms, `(n,)` or `(n, k)`: one row a candidate.

    Raises:
        AcquisitionError: Names `what` is not finite, in how many rows, and the first of them.
    """
    bad = ~torch.isfinite(values)
    rows = bad.any(1) if bad.ndim > 1 else bad
    if rows.any():
        raise AcquisitionError(
            f"the {what} of {int(rows.sum())} of {len(rows)} points are not finite or too large "
            f"to square (first: row {int(rows.nonzero()[0])}). The learner has diverged: lower "
            "--lr, or choose an acquisition function that does not need them."
        )


def gather(evidence: Evidence, labelled: bool = True, unit: bool = False) -> tuple[Points, int]:
    """Embed the labelled points and the candidates, centred on their common mean.

    Memory: one copy of the embeddings beside those that the evidence keeps.

    Args:
        evidence: The candidates and the learner's view of them.
        labelled: Whether the labelled points are wanted; without, nothing is computed for them.
        unit: Scale every embedding to length 1 before centring; zeros stay.

    Returns:
        The m labelled points, then the n candidates, `(m + n, d)`; and m.

    Raises:
        AcquisitionError: An embedding is not finite.
    """
    known = evidence.labelled.numel() if labelled else 0
    parts = [evidence.labelled_embeddings] if known else []
    rows = torch.cat([*parts, evidence.embeddings])
    norms = make_points(rows).norms
    if unit:
        rows /= norms.sqrt_().clamp_min_(torch.finfo(rows.dtype).tiny)[:, None]
    rows -= rows.mean(0)
    return make_points(rows), known


def pick(evidence: Evidence, positions: Tensor) -> Tensor:
    """Turn positions among the candidates into absolute indices on the CPU."""
    return evidence.candidates[positions.to(evidence.candidates.device)]
