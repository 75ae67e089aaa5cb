"""BaRP (arXiv 2510.07429): a preference-conditioned softmax policy trained by policy gradient on bandit feedback."""
