"""Which contacts can be reached at the moment, why others cannot, and the system notifications about it."""
