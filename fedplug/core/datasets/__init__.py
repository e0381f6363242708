"""Ready classes for the data of training plans: what ``DataManager`` may hold beside arrays."""
