"""Shutting the worker process in: no network, no files but its own, no more than its share of the machine.

Several layers, each by itself and each as good as the system lets it be (`fedplug.node.isolation.confine`); what
could not be enforced is said when the node starts. See docs/isolation.md.
"""
