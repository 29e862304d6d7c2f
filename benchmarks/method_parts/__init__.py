"""The five parts of `benchmarks.methods`, and the process in which policies answer for them."""
