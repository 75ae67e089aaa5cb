"""The science of routing: rewards, encoders, policies and learners, metrics and off-policy evaluation."""
