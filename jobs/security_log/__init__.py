"""The security log of a home, and how long each file of a home is kept."""
