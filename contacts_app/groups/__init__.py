"""Who is told together: groups of contacts."""
