"""The learner: fitting under a deadline, predicting in a stream, folding BatchNorm away."""

from alprune.train.learner import Learner
from alprune.train.optimiser import new_optimiser
from alprune.train.predict import BudgetSpent
from alprune.train.settings import SCHEDULES, Diverged, FitReport, FitSettings

__all__ = [
    "SCHEDULES",
    "BudgetSpent",
    "Diverged",
    "FitReport",
    "FitSettings",
    "Learner",
    "new_optimiser",
]
