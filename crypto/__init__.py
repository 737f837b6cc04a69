"""Adding numbers nobody can see: the protocol, sans-IO. No torch, no network, no clock."""
