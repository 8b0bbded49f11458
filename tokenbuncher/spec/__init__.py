"""What people write: release specs, policies, prompts and the names of sources."""
