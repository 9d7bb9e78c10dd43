"""Tables and pictures from run folders."""

from alprune.report.curve import curves, plot_curves
from alprune.report.write import write_report

__all__ = ["curves", "plot_curves", "write_report"]
