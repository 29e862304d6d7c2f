"""Direct preference optimisation: learn from which of two answers people prefer."""
