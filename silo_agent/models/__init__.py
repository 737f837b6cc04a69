"""Models: the networks that a job may name, what a silo trains of them, and what of them may leave.

A model comes from a *factory*, a function of the shape of a row, the number of classes and its own settings, which
returns a ``Model`` (``description``). Factories are built in, or installed by a package under the entry point group
``consilium.models``. Methods speak to ``Experts`` (``experts``) and know no architecture. torch is imported when a
factory runs, not with this package.
"""
