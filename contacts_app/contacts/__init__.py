"""Who can be reached: the contacts of an account."""
