"""What the data owner does at the silo: read what a job would do, approve or deny it with a signature."""
