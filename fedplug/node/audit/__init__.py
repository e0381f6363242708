"""The audit log: what was asked of a node, what was decided, and what left it."""
