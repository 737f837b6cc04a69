"""Lineage for people: where a model comes from and where data went, from the ledger and the run folders alone.

``trace`` makes it a value (``model``), ``reverse`` asks the other way round, ``terminal`` prints both, ``html`` makes
it one page. All but ``html`` need the base install only.
"""
