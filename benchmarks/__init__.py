"""What dinokit's figures are measured with: `python -m benchmarks.NAME` from the repository's root."""
