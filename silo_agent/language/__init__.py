"""Language models of experts for FLEx: the frozen base model and its transformer."""
