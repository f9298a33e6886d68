"""Who can be reached right now, and why not."""
