"""Speed as ratios, measured in one run on one machine; `tools/benchmark.py` is its command line."""
