"""A reward model: learn to score answers as people prefer them."""
