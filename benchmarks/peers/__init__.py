"""What a benchmark is compared with: an earlier program, another engine, a bare write."""
