"""What this machine can decode, compute and reach: each thing tried, none assumed."""
