"""The ledger: what happened, once, in order, signed."""
