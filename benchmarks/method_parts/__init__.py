"""The five parts of `benchmarks.methods`."""
