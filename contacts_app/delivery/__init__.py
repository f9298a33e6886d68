"""The way out: notifications, deliveries and the worker."""
