"""Consumes, keeps state, publishes results, exactly once."""
