"""Tables and pictures from run folders."""

from alprune.runs.report.run_curve import plot_curve
from alprune.runs.report.write import write_report

__all__ = ["plot_curve", "write_report"]
