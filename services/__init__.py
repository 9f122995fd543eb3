"""The services. They know `shared` and never each other; they talk through Kafka topics only."""
