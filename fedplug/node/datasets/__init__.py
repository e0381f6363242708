"""The node's data sets: types of files that it can read, and data that lies in memory."""
