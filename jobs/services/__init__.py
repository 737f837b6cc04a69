"""The long-lived processes of a silo and of the aggregator: start, metrics, health, drain."""
