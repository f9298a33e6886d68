"""Groups of contacts, which are notified together."""
