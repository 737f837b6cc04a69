"""Checks evidence offline: ledger, charters, steps, sums, receipts, models, bundles."""
