"""The HTTP API: one module a group of routes, none of which knows how it is deployed."""
