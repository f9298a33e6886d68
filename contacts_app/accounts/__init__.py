"""Who may come in: accounts, their users, and the sessions they are in by."""
