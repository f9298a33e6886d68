"""The ground under every room: database, encryption, file locks, and the normal form of text."""
