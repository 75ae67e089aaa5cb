"""Route by predicted outcomes: one shared network learns every model's score and cost from partial feedback."""
