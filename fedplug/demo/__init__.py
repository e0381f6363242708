"""``fedplug demo``: a real federation on this machine, from data files to a trained model."""
