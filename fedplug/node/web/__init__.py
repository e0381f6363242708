"""``fedplug node ui``: a page for the owner of a node, served to this machine only.

It calls the same functions as the command line, and holds no rule of its own. `fedplug.node.web.app` joins the
pages; each topic has a module.
"""
