"""Each module measures one goal as a ratio in one run. `python -m benchmarks.<name> --json`."""
