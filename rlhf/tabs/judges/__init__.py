"""The AI judges page: the judges, how far each can be trusted, their jobs, and the rubric."""
