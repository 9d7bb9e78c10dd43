"""The learner: fitting under a deadline, predicting in a stream, folding BatchNorm away."""

from alprune.training.learner import Learner
from alprune.training.optimiser import new_optimiser
from alprune.training.predict import BudgetSpent
from alprune.training.settings import SCHEDULES, Diverged, FitReport, FitSettings

__all__ = [
    "SCHEDULES",
    "BudgetSpent",
    "Diverged",
    "FitReport",
    "FitSettings",
    "Learner",
    "new_optimiser",
]
