"""Criteria: one score a channel, from a minibatch before training."""
