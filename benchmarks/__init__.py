"""Speed and memory, as ratios to a ceiling measured in the same run: ``make bench``, docs/benchmarks.md."""
