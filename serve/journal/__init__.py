"""The decision log: what was decided and what came of it, durable before anyone is told."""
