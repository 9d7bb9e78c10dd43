"""Tables and pictures from run folders."""

from alprune.runs.report.run_curve import curves, plot_curves
from alprune.runs.report.write import write_report

__all__ = ["curves", "plot_curves", "write_report"]
