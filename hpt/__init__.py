"""hpt: hierarchical pretraining as a library (no command line, no tracking, no pandas)."""
