"""Approval of training plans by the owner of a node."""
