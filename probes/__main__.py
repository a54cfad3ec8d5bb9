"""`python -m probes`: the same as the console script."""

from probes.cli import main

main()
