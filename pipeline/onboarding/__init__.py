"""A new model for a trained router: which prompts to ask it, and the larger pool that its answers make."""
