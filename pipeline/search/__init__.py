"""Hyper-parameter search: what is searched, what a trial is, what is kept of it."""
