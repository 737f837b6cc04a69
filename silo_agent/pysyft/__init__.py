"""What PySyft keeps at the silo: the catalogue of data sets, their mock rows, the queue of requests."""
