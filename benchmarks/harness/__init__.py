"""What several benchmarks share: the real app as a subprocess, browsers, a place for jobs, intervals, a gold rule."""
