"""The aggregator: adds named blocks it cannot look into, and keeps the evidence. No torch, no method."""
