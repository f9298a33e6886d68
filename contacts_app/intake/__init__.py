"""The way in: integrations and the formats that they send."""
