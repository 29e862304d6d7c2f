"""The Runs page: the queue, one run live, its curves and what came of it, runs compared; words about jobs."""
