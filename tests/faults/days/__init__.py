"""Days in virtual time: the record, the queues, the workers and the sweep that plans its own next run."""
