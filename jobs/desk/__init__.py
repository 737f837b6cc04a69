"""The data owner's page at the silo: requests in words, decisions signed, data sets, runs, models, records."""
