"""What the owner of a node allows: the file ``node.toml``, the rules in it, and the budget of privacy."""
