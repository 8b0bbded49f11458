"""What every room stands on: errors, files, documents, logs and the clock."""
