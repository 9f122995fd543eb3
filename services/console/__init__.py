"""The operator's side: the `tandem` command line. It reads Kafka, and never asks the services."""
