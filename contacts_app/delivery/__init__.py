"""Outgoing notifications: the queue of deliveries, the worker and the channels."""
