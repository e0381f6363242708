"""A node as a service of its machine: stopping it from outside, its log, its systemd unit, and what ails it."""
