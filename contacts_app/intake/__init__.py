"""Integrations: the webhooks that monitoring systems post to, and the formats that they send."""
