"""Routers that a policy is compared with: trained on full tables, or in closed form on a feedback log."""
