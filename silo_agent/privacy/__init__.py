"""Differential privacy at a silo: what a private job says, its noise, and the account that adds up and refuses."""
