"""LLM Bandit (arXiv 2502.02743): model identity vectors and one set policy over any candidate models."""
