"""What one does with runs: load, predict, export, compare, report, watch, rerun, bench."""
