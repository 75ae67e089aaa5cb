"""Readers of the public routing benchmarks, one module a format; :mod:`pipeline.loaders.registry` lists them."""
