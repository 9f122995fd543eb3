"""The generator: makes realistic event streams, publishes them, and keeps account of what Kafka took."""
