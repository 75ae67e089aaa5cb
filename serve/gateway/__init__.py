"""The OpenAI-compatible gateway: what a request asks for, where it goes, and what comes back."""
