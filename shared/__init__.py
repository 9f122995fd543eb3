"""What the services have in common, and nothing else. It knows no service."""
