"""Reads what runs left behind, each with the code of the protocol that it was made under."""
