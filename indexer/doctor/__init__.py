"""What this machine can decode, compute and reach, by trial."""
