"""How the report draws and words what `evaluate` measured."""
