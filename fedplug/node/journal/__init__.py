"""What a node remembers of its tasks, whatever ends it: the journal, and the updates that wait to be taken."""
