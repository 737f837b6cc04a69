"""Frozen reader of ``consilium/1``: what is needed to verify its runs, receipts, charters and evidence, and no more.

Nothing here writes protocol messages, and nothing here changes with the protocol in use: it shares with that only the
primitives (keys, shares, ring, mask streams, errors). In this protocol the opened sums were not proven to the silos.
"""
