"""Every module here registers scenarios."""
