"""Accounts, their users, sessions, and the permissions of views."""
