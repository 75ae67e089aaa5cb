"""What every learner on RLlib shares: columns on disk, epochs without environments, checkpoints."""
