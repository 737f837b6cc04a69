"""What the administrator does with a kit: submit a job, follow it, read its log, stop it."""
