"""Routers trained on full tables: what a policy that saw one outcome a prompt is compared with."""
