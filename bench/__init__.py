"""First figures of the services as they are shipped; the comparison with peers comes on top of this."""
