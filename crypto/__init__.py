"""Secure aggregation: the protocol, sans-IO. No torch, no network, no clock."""
