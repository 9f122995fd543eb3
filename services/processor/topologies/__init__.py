"""The topologies that are shipped: one file each."""
