"""How much of the pool to score, so that scoring takes a set share of a step and no more."""

from dataclasses import dataclass


@dataclass
class ScoringShare:
    """Chooses the size of the scored subset from measured speeds.

    Entropy on a random subset acquires nearly as well as on the whole pool, and on a CPU the
    whole pool would eat the budget: 49,000 images take as long to score as 15,000 to train on.

    Attributes:
        share: Share of a step (fitting and scoring) that scoring may take, in (0, 1).
        least: Points scored at least, and in the first step, before a speed is known.
        speed: Points scored a second, as last measured; None before.
    """

    share: float
    least: int
    speed: float | None = None

    def size(self, fit_s: float) -> int:
        """Return how many points to score after a fit that took `fit_s` seconds."""
        if self.speed is None:
            return self.least
        allowed_s = fit_s * self.share / (1 - self.share)
        return max(self.least, int(allowed_s * self.speed))

    def measured(self, points: int, seconds: float) -> None:
        """Note how long scoring took; the latest measurement counts half."""
        if points == 0 or seconds <= 0:
            return
        speed = points / seconds
        self.speed = speed if self.speed is None else 0.5 * (self.speed + speed)
